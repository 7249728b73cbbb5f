"""The fence for real: in a network of its own, as the users of a pod, with somebody outside who hears every packet."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import containers
from escaping import PORTS
from sidecar.fence import main

SUPPORT = Path(__file__).parents[1] / "support"
V4, V6, LINK = "10.77.0.1", "fd77::1", "fe80::1"
OPEN_V4, OPEN_V6, DNS = "10.88.0.1", "fd88::1", "10.77.0.53"
LEFT = ("41001", "41002", "41003")
FREE = ("--free-uid", str(containers.SIDECAR), "--free-uid", str(containers.SERVER))


class Pod:
    """A network namespace with one link to another one, the world, which listens on `PORTS`."""

    def __init__(self) -> None:
        if os.getuid() != 0 or shutil.which("nft") is None:
            pytest.fail("these tests make networks: run them as root, with the package nftables installed")
        self.pod, self.outside = (self._namespace() for _ in range(2))
        self._run(self.pod, "ip", "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", str(self.outside.pid))
        for there, number in ((self.pod, 2), (self.outside, 1)):
            addresses = [f"10.77.0.{number}/24", f"fd77::{number}/64", f"fe80::{number}/64"]
            addresses += [f"{OPEN_V4}/32", f"{OPEN_V6}/128", f"{DNS}/32"] if number == 1 else []
            lines = ["link set lo up", "link set eth0 addrgenmode none", "link set eth0 up"]
            lines += [f"addr add {each} dev eth0{' nodad' * (':' in each)}" for each in addresses]
            lines += [f"route add default via {V4}", f"-6 route add default via {V6}"] if number == 2 else []
            for line in lines:
                self._run(there, "ip", *line.split())
        self._run(self.pod, "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")  # as in a pod
        command = [*self._at(self.outside), sys.executable, "-I", str(SUPPORT / "world.py"), *map(str, PORTS)]
        self.world = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.world.stdout is not None
        assert self.world.stdout.readline() == "ready\n"

    def close(self) -> None:
        for process in (self.world, self.pod, self.outside):
            process.kill()
            process.communicate()

    def fence(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-m", "exequatur", "sidecar", "fence", *FREE, *arguments]
        return subprocess.run(
            [*self._at(self.pod), *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environ or {})},
        )

    def attempts(self, uid: int) -> dict[str, bool]:
        """Try everything as `uid`; gives what worked."""
        return json.loads(self.run(uid, str(SUPPORT / "escaping.py"), V4, V6, LINK, *LEFT))

    def script(self, uid: int, text: str) -> str:
        return self.run(uid, "-c", "from escaping import *\n" + textwrap.dedent(text))

    def run(self, uid: int, *words: str) -> str:
        with self.start(uid, *words) as process:
            return process.communicate(timeout=120)[0].strip()

    @contextlib.contextmanager
    def start(self, uid: int, *words: str, outside: bool = False) -> Iterator[subprocess.Popen[str]]:
        where = self._at(self.outside if outside else self.pod)
        command = [*where, *containers.user(uid), sys.executable, "-s", *words]
        environ = {**os.environ, "PYTHONPATH": str(SUPPORT)}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def heard(self) -> list[str]:
        """Give the packets that have left the pod since this was last asked."""
        assert self.world.stdin is not None
        assert self.world.stdout is not None
        self.world.stdin.write("\n")
        self.world.stdin.flush()
        return json.loads(self.world.stdout.readline())

    def _namespace(self) -> subprocess.Popen[bytes]:
        command = ["unshare", "--net", "setpriv", "--pdeathsig=KILL", "sh", "-c", "echo; exec sleep infinity"]
        made = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert made.stdout is not None
        made.stdout.readline()
        return made

    def _at(self, there: subprocess.Popen[bytes]) -> list[str]:
        return ["nsenter", f"--net=/proc/{there.pid}/ns/net", "--"]

    def _run(self, there: subprocess.Popen[bytes], *command: str) -> None:
        subprocess.run([*self._at(there), *command], check=True)


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    pod = Pod()
    ways = ("--agent-may", "10.88.0.0/16:443", "--agent-may", "[fd88::/64]:443", "--dns", DNS)
    done = pod.fence(*ways)
    assert (done.returncode, done.stderr) == (0, "")
    yield pod
    pod.close()


def test_of_two_hundred_attempts_of_an_agent_none_gets_a_packet_out(pod):
    free = pod.attempts(containers.SIDECAR)
    worked = {name for name, came in free.items() if came}
    assert {
        f"{kind} {to} {port}" for kind in ("tcp", "udp") for to in ("v4", "v6", "link", "mapped") for port in PORTS
    } <= worked
    assert len(worked) > 150, "what a free user cannot do proves nothing"
    assert len(pod.heard()) > 400
    tried = pod.attempts(containers.AGENT)
    assert len(tried) == 200
    assert [name for name, came in tried.items() if came] == []
    assert pod.heard() == []


@pytest.mark.parametrize("uid", [0, 1, 65_534, containers.SIDECAR + 2, 2**32 - 2])
def test_nobody_else_gets_out_root_neither(pod, uid):
    pod.heard()
    assert pod.script(uid, f"print(udp(('{V4}', 53)))") == ""
    assert pod.heard() == []


def test_an_agent_reaches_what_it_was_given_and_nothing_beside_it(pod):
    told = pod.script(
        containers.AGENT,
        f"""
        for way, to in (
            (tcp, ("{OPEN_V4}", 443)), (tcp, ("{OPEN_V6}", 443)), (tcp, ("{DNS}", 53)), (udp, ("{DNS}", 53)),
            (tcp, ("{OPEN_V4}", 8443)), (udp, ("{OPEN_V4}", 443)), (tcp, ("{OPEN_V6}", 53)), (udp, ("{DNS}", 443)),
            (tcp, ("{V4}", 443)), (udp, ("{V4}", 53)),
        ):
            try:
                print(way(to))
            except OSError as error:
                print(type(error).__name__)
        """,
    )
    assert told.split() == ["True"] * 4 + ["ConnectionRefusedError", "PermissionError"] * 3
    assert {packet.rpartition(" ")[2] for packet in pod.heard()} == {OPEN_V4, OPEN_V6, DNS}


def test_all_users_of_a_pod_reach_one_another(pod):
    told = pod.script(
        containers.AGENT,
        """
        for family, host in ((V4, "127.0.0.1"), (V6, "::1"), (V4, "10.77.0.2"), (V6, "fd77::2")):
            with socket.create_server((host, 0), family=family) as server:
                with socket.create_connection(server.getsockname()[:2]) as client:
                    print(client.send(b"x"))
        """,
    )
    assert told.split() == ["1"] * 4


LISTENS_LATER = """
server = socket.create_server(("::", 7777), family=V6, dualstack_ipv6=True)
server.settimeout(20)
print("up", flush=True)
client, _ = server.accept()
client.settimeout(20)
sys.stdin.readline()
size = 0
while data := client.recv(2**16):
    size += len(data)
print(size)
"""
WRITES_AND_CLOSES = f"""
client = socket.create_connection(("{V4}", 7777), timeout=20)
client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_000_000)
client.settimeout(1)
sent = 0
with contextlib.suppress(TimeoutError):
    while sent < 12_000_000:
        sent += client.send(b"x" * 100_000)
print(sent)
"""


def test_a_closed_connection_delivers_what_was_written(pod):
    """Its last packets are nobody's: the socket that they belonged to has no file any more."""
    with pod.start(0, "-c", "from escaping import *\n" + LISTENS_LATER, outside=True) as listens:
        assert listens.stdout.readline() == "up\n"
        written = pod.run(containers.SIDECAR, "-c", "from escaping import *\n" + WRITES_AND_CLOSES)
        assert int(written) > 1_000_000
        assert listens.communicate("now\n", timeout=30)[0].strip() == written
    pod.heard()


CALLED = """
server = socket.create_server(("::", 8000), family=V6, dualstack_ipv6=True)
server.settimeout(20)
late = socket.socket(V6, socket.SOCK_DGRAM)
late.bind(("::", 8000))
print("up", flush=True)
for _ in range(2):
    client, _ = server.accept()
    with client:
        client.sendall(client.recv(5) * 100_000)
data, where = late.recvfrom(10)
try:
    late.sendto(data, where)
except OSError as error:
    print(type(error).__name__, flush=True)
"""
CALLS = """
for family, host in ((V4, "10.77.0.2"), (V6, "fd77::2")):
    with socket.create_connection((host, 8000), timeout=10) as client:
        client.sendall(b"probe")
        size = 0
        while data := client.recv(2**16):
            size += len(data)
    print(size)
with opened(V4, socket.SOCK_DGRAM) as client:
    client.sendto(b"x", ("10.77.0.2", 8000))
"""


def test_who_calls_the_agent_is_answered_over_tcp_alone(pod):
    pod.heard()
    with pod.start(containers.AGENT, "-c", "from escaping import *\n" + CALLED) as called:
        assert called.stdout.readline() == "up\n"
        with pod.start(0, "-c", "from escaping import *\n" + CALLS, outside=True) as caller:
            assert caller.communicate(timeout=60)[0].split() == ["500000", "500000"]
        assert called.communicate(timeout=10)[0].split() == ["PermissionError"]
    assert {packet.split()[1] for packet in pod.heard()} == {"6"}


def test_neighbours_are_found_though_nobody_asks_for_them(pod):
    for there in (pod.pod, pod.outside):
        pod._run(there, "ip", "-6", "neigh", "flush", "all")
    assert pod.script(containers.SIDECAR, f"print(udp(('{V6}', 53)))") == "True"
    pod.heard()


def test_without_the_program_that_loads_them_there_are_no_rules_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(FREE) == 69
    assert capsys.readouterr().err.startswith("error: the program `nft` is not here: take the fence's own image")


def test_rules_that_are_not_taken_are_said_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "nft").write_text("#!/bin/sh\necho 'Operation not permitted (you must be root)' >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert main(FREE) == 69
    told = capsys.readouterr().err
    assert told.startswith("error: the rules are not in force: Operation not permitted")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ((), "--free-uid"),
        (("--free-uid", "0"), "`0` is root"),
        (("--free-uid", "-1"), "is no user id"),
        (("--free-uid", "4294967295"), "is no user id"),
        (("--free-uid", "agent"), "is no user id"),
        ((*FREE, "--agent-may", "10.0.0.1/8:443"), "has host bits set"),
        ((*FREE, "--agent-may", "10.0.0.0/8"), "is not CIDR:PORT"),
        ((*FREE, "--agent-may", "10.0.0.0/8:0"), "a port is from 1 to 65535"),
        ((*FREE, "--agent-may", "10.0.0.0/8:65536"), "a port is from 1 to 65535"),
        ((*FREE, "--agent-may", "fd00::/8:443"), "brackets are for IPv6"),
        ((*FREE, "--agent-may", "[10.0.0.0/8]:443"), "brackets are for IPv6"),
        ((*FREE, "--agent-may", "[fe80::1%a accept]:443"), "is not CIDR:PORT"),
        ((*FREE, "--agent-may", "example.com:443"), "is not CIDR:PORT"),
        ((*FREE, "--dns", "kube-dns"), "is no IP address"),
        ((*FREE, "--dns", "fe80::1%eth0 accept"), "is no IP address"),
        ((*FREE, "--all"), "unrecognized arguments"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_touched(argv, fault, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    told = capsys.readouterr().err
    assert (exit_.value.code, told.count("\n")) == (2, 1)
    assert told.startswith("error: ")
    assert fault in told


def test_what_would_be_loaded_can_be_read_and_is_the_same_each_time(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", None)
    texts = []
    for free in (FREE, (*FREE[2:], *FREE[:2], *FREE)):
        assert main((*free, "--agent-may", "10.0.0.0/8:443", "--dns", "fd00::a", "--print")) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "policy drop" in texts[0]
    assert "ip daddr 10.0.0.0/8 tcp dport 443 accept" in texts[0]
    assert "ip6 daddr fd00::a meta l4proto { tcp, udp } th dport 53 accept" in texts[0]


def test_loading_again_takes_the_place_of_what_was_there(pod):
    try:
        assert pod.fence().returncode == 0
        assert pod.script(containers.AGENT, f"print(tcp(('{OPEN_V4}', 443)))") == ""
    finally:
        assert (
            pod.fence("--agent-may", "10.88.0.0/16:443", "--agent-may", "[fd88::/64]:443", "--dns", DNS).returncode == 0
        )
    assert pod.script(containers.AGENT, f"print(tcp(('{OPEN_V4}', 443)))") == "True"
    pod.heard()
