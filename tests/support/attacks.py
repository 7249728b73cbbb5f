"""What a hijacked agent would try from inside its container, run there as its user: one JSON object, by attack.

A value is what the attack won; empty: it was refused. None of them needs anything that the agent's container has not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

TLS, SPOOL, RUN = Path("/etc/exequatur/tls"), Path("/var/lib/exequatur"), Path("/run/exequatur")
DOOR = RUN / "doors" / "grpc" / "s" / "door.sock"
INNER, SERVER = RUN / "doors" / "git" / "s" / "door.sock", RUN / "mcp" / "git" / "git.sock"
SHIM = RUN / "bin" / "exequatur-mcp"
PDP, LEDGER = ("exequatur-pdp.exequatur.svc", 7070), ("exequatur-ledger.exequatur.svc", 7071)
AUTHORIZE, APPEND = "/exequatur.v1.DecisionService/Authorize", "/exequatur.v1.AuditService/Append"
OURS = {9082, 9072}
"""The sidecar's ports for probes and metrics: anybody may read them."""
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
FOUND: dict[str, Callable[[], str]] = {}
libc = ctypes.CDLL(None, use_errno=True)


def attack(what: Callable[[], str]) -> Callable[[], str]:
    FOUND[what.__name__] = what
    return what


def processes() -> dict[int, Path]:
    """Give the processes that can be seen."""
    return {int(path.name): path for path in Path("/proc").glob("[0-9]*")}


def others() -> list[int]:
    """Give those that are not our user's."""
    return [pid for pid, path in processes().items() if path.stat().st_uid != os.getuid()]


def called(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


@attack
def read_the_sidecars_key() -> str:
    return (TLS / "tls.key").read_text()[:30]


@attack
def find_a_private_key_anywhere() -> str:
    skipped = ("/proc", "/sys", "/usr", sys.base_prefix, str(Path(__file__).parents[2]), "/etc/ssl")
    for folder, _, names in os.walk("/"):
        if folder.startswith(skipped):
            continue
        for name in names:
            path = Path(folder, name)
            if path.suffix in (".key", ".pem") and path.is_file() and b"PRIVATE KEY" in path.read_bytes():
                return str(path)
    return ""


@attack
def read_the_spool() -> str:
    return " ".join(path.name for path in (SPOOL / "spool").iterdir())


@attack
def read_the_environment_of_another_users_process() -> str:
    return " ".join(Path(f"/proc/{pid}/environ").read_text() for pid in others())


@attack
def see_the_sidecar_among_the_processes() -> str:
    lines = {pid: (path / "cmdline").read_bytes() for pid, path in processes().items()}
    return " ".join(str(pid) for pid, line in lines.items() if b"sidecar" in line)


@attack
def reach_the_key_through_another_processs_root() -> str:
    return " ".join(path for path in map(str, Path("/proc").glob(f"*/root{TLS}/tls.key")) if Path(path).read_bytes())


@attack
def open_the_memory_of_another_users_process() -> str:
    for pid in others():
        with Path(f"/proc/{pid}/mem").open("rb"):
            return str(pid)
    return ""


@attack
def trace_another_users_process() -> str:
    for pid in others():
        called(libc.ptrace(16, pid, 0, 0))  # PTRACE_ATTACH
        return str(pid)
    return ""


@attack
def signal_another_users_process() -> str:
    for pid in others():
        os.kill(pid, 0)
        return str(pid)
    return ""


@attack
def become_the_sidecars_user() -> str:
    before = os.getuid()
    os.setresuid(64113, 64113, before)
    return f"{before} became {os.getuid()}"


@attack
def enter_another_mount_namespace() -> str:
    own = Path("/proc/self/ns/mnt").readlink()
    for path in Path("/proc").glob("[0-9]*/ns/mnt"):
        if path.readlink() != own:
            with path.open() as other:
                called(libc.setns(other.fileno(), 0))
            return str(path)
    return ""


@attack
def read_a_service_account_token() -> str:
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/token").read_text()


@attack
def read_all_packets() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)):
        return "a raw socket"


@attack
def take_the_sidecars_ports() -> str:
    for port in OURS:
        for host in ("0.0.0.0", "127.0.0.1", "::"):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                try:
                    sock.bind((host, port))
                    sock.listen()
                except OSError:
                    continue
                return f"{host}:{port}"
    return ""


@attack
def find_another_port_that_listens() -> str:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return " ".join(map(str, found - OURS))


@attack
def change_something_by_the_metrics_port() -> str:
    for method, path in (("POST", "/metrics"), ("PUT", "/readyz"), ("DELETE", "/healthz"), ("POST", "/-/reload")):
        request = urllib.request.Request(f"http://127.0.0.1:9082{path}", data=b"x", method=method)
        try:
            with urllib.request.urlopen(request, timeout=3) as answer:
                return f"{method} {path}: {answer.status}"
        except urllib.error.HTTPError:
            continue
    return ""


@attack
def connect_to_a_socket_without_a_path() -> str:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.split()[-1]
        if name.startswith("@"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect("\0" + name[1:])
                return name
    return ""


@attack
def connect_to_the_enforced_doors_socket() -> str:
    for path in (str(INNER), *map(str, Path("/proc").glob(f"*/root{INNER}"))):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            return path
    return ""


@attack
def replace_the_program_that_joins_the_mcp_server() -> str:
    with contextlib.suppress(OSError):
        SHIM.write_bytes(b"#!/bin/sh\n")
        return str(SHIM)
    fresh = SHIM.with_name("fresh")
    fresh.write_bytes(b"#!/bin/sh\n")
    fresh.replace(SHIM)
    return str(SHIM)


@attack
def put_another_socket_where_the_mcp_server_is_found() -> str:
    SERVER.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(SERVER))
    return str(SERVER)


@attack
def put_another_socket_in_the_doors_folder() -> str:
    for folder in (DOOR.parent, DOOR.parent.parent):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.bind(f"{folder}/other.sock")
            except OSError:
                continue
            return str(folder)
    return ""


@attack
def open_the_doors_folder_to_all() -> str:
    DOOR.parent.chmod(0o777)
    return str(DOOR.parent)


@attack
def move_the_doors_folder_away() -> str:
    DOOR.parent.rename(DOOR.parent.with_name("t"))
    DOOR.parent.with_name("t").rename(DOOR.parent)
    return str(DOOR.parent)


@attack
def mount_the_door_writable() -> str:
    called(libc.mount(None, str(DOOR.parent.parent).encode(), None, 32 | 4096, None))  # MS_REMOUNT | MS_BIND
    return str(DOOR.parent.parent)


@attack
def mount_the_door_writable_as_root_of_a_user_namespace() -> str:
    for folder in (DOOR.parent.parent, SHIM.parent, SERVER.parent):
        script = f"mount -o remount,rw,bind {folder} && : > {folder}/own"
        done = subprocess.run(["/usr/bin/unshare", "-Urm", "/bin/sh", "-c", script], capture_output=True, check=False)
        if done.returncode == 0:
            return str(folder)
    return ""


def in_plain_text(where: tuple[str, int], method: str) -> str:
    import grpc

    with grpc.insecure_channel(f"{where[0]}:{where[1]}", options=OPTIONS) as channel:
        channel.unary_unary(method)(b"", timeout=3)
    return "served in plain text"


def with_certificate(where: tuple[str, int], method: str, certificate: tuple[bytes, bytes] | None) -> str:
    """Call with a certificate of our own making, or with none; who signs the service is no secret."""
    import grpc

    roots = os.environ["ROOTS"].encode()
    key, chain = certificate or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    with grpc.secure_channel(f"{where[0]}:{where[1]}", credentials, options=OPTIONS) as channel:
        channel.unary_unary(method)(b"", timeout=3)
    return "served"


def forged() -> tuple[bytes, bytes]:
    """Make a certificate that says it is the sidecar's."""
    sys.path.insert(0, str(Path(__file__).parent))
    import tempfile

    from pki import Authority

    files = Authority(Path(tempfile.mkdtemp(dir="/dev/shm"))).issue("forged", "spiffe://example.org/ns/team-a/sa/coder")
    return files.key.read_bytes(), files.certificate.read_bytes()


@attack
def ask_the_decision_point_in_plain_text() -> str:
    return in_plain_text(PDP, AUTHORIZE)


@attack
def ask_the_decision_point_without_a_certificate() -> str:
    return with_certificate(PDP, AUTHORIZE, None)


@attack
def ask_the_decision_point_with_a_forged_certificate() -> str:
    return with_certificate(PDP, AUTHORIZE, forged())


@attack
def ask_the_decision_point_with_a_stolen_certificate() -> str:
    return with_certificate(PDP, AUTHORIZE, ((TLS / "tls.key").read_bytes(), (TLS / "tls.crt").read_bytes()))


@attack
def write_to_the_ledger_in_plain_text() -> str:
    return in_plain_text(LEDGER, APPEND)


@attack
def write_to_the_ledger_without_a_certificate() -> str:
    return with_certificate(LEDGER, APPEND, None)


@attack
def write_to_the_ledger_with_a_forged_certificate() -> str:
    return with_certificate(LEDGER, APPEND, forged())


@attack
def speak_for_another_agent_at_the_door() -> str:
    from exequatur.client import Client

    with Client(f"unix:{DOOR}", timeout_s=5) as client:
        for other in ({"agent": "clerk"}, {"instance": "another"}, {"tenant": "another"}):
            if client.authorize("bank/look", {"account": "7"}, **other).allowed:
                return str(other)
    return ""


@attack
def settle_what_was_given_to_another() -> str:
    from exequatur.client import Client, Outcome

    with Client(f"unix:{DOOR}", timeout_s=5) as client:
        return str(client.settle("0190a000-other", Outcome.NOT_EXECUTED))


@attack
def remove_the_doors_socket() -> str:
    DOOR.unlink()
    return str(DOOR)


def main() -> None:
    won: dict[str, str] = {}
    signal.alarm(100)
    for name in sys.argv[1:] or FOUND:
        try:
            won[name] = FOUND[name]()
        except Exception as error:  # noqa: BLE001  whatever stops it, it won nothing
            won[name] = ""
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    print(json.dumps(won))


main()
