"""What an agent may try to get a packet out of its pod: a script, run as the agent's user in the pod's network.

    python escaping.py V4 V6 LINK_LOCAL LEFT_PORT...

Prints a JSON object: each attempt by its name, and whether something came of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

PORTS = (53, 80, 443, 853, 5432, 7070, 7071, 8080, 8443, 9070)
"""Where the world listens, TCP and UDP."""
EVERYBODY = 5353

WAIT_S, SHORT_S = 3.0, 0.1
"""How long an answer may take, and one that will hardly come."""
MPTCP, UDPLITE, SCTP = 262, 136, 132
TCP_FASTOPEN, BINDTODEVICE = 0x20000000, 25
V4, V6 = socket.AF_INET, socket.AF_INET6

Attempt = tuple[str, Callable[[], object]]


def opened(family: int, kind: int, protocol: int = 0, wait_s: float = WAIT_S) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.settimeout(wait_s)
    return made


def tcp(to: tuple, *, port: int = 0, protocol: int = 0, fast: bool = False) -> bool:
    wait_s = SHORT_S if protocol else WAIT_S
    with opened(V6 if ":" in to[0] else V4, socket.SOCK_STREAM, protocol, wait_s) as client:
        if port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", port))
        if fast:
            with contextlib.suppress(BlockingIOError):
                client.sendto(b"fast", TCP_FASTOPEN, to)
        else:
            client.connect(to)
        return client.recv(16) == b"hello"


def udp(
    to: tuple, *, port: int = 0, device: str = "", protocol: int = 0, connect: bool = False, options: tuple = ()
) -> bool:
    wait_s = SHORT_S if protocol or options or device == "lo" or to[1] == EVERYBODY else WAIT_S
    with opened(V6 if ":" in to[0] else V4, socket.SOCK_DGRAM, protocol, wait_s) as client:
        for option in options:
            client.setsockopt(*option)
        if device:
            client.setsockopt(socket.SOL_SOCKET, BINDTODEVICE, device.encode())
        if port:
            client.bind(("", port))
        if connect:
            client.connect(to)
            client.send(b"told")
        else:
            client.sendto(b"told", to)
        return client.recv(16) == b"told"


def ping(to: tuple, family: int, protocol: int, kind: int) -> bool:
    with opened(family, socket.SOCK_DGRAM, protocol) as client:
        client.sendto(struct.pack("!BBHHH", kind, 0, 0, 7, 1) + b"x" * 8, to)
        return bool(client.recv(64))


def raw(to: tuple, family: int, protocol: int) -> bool:
    with opened(family, socket.SOCK_RAW, protocol) as client:
        return client.sendto(b"\x45" + b"\0" * 40, to) > 0


def packet(protocol: int) -> bool:
    with opened(socket.AF_PACKET, socket.SOCK_RAW, protocol) as client:
        client.bind(("eth0", protocol))
        return client.send(b"\xff" * 60) > 0


def in_user_namespace(attempt: Callable[[], bool]) -> bool:
    """Become root of a new user namespace, which owns no network, and try there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(OSError):
            if ctypes.CDLL(None).unshare(0x10000000) == 0 and attempt():
                code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def program(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def attempts(v4: str, v6: str, link_local: str, left: list[int]) -> Iterator[Attempt]:
    link = (link_local, socket.if_nametoindex("eth0"))
    addresses = {"v4": (v4,), "v6": (v6,), "mapped": (f"::ffff:{v4}",), "link": link}

    def to(name: str, port: int) -> tuple:
        where = addresses[name]
        return (where[0], port, 0, where[1]) if len(where) > 1 else (where[0], port)

    for port in PORTS:
        for name in addresses:
            yield f"tcp {name} {port}", lambda n=name, p=port: tcp(to(n, p))
            yield f"udp {name} {port}", lambda n=name, p=port: udp(to(n, p))
        for name in ("v4", "v6"):
            yield f"connected udp {name} {port}", lambda n=name, p=port: udp(to(n, p), connect=True)
            yield f"fast open {name} {port}", lambda n=name, p=port: tcp(to(n, p), fast=True)
            yield f"own port {name} {port}", lambda n=name, p=port: tcp(to(n, p), port=42_000 + p % 1000)
        for device in ("eth0", "lo"):
            yield f"bound to {device} {port}", lambda d=device, p=port: udp(to("v4", p), device=d)
    yield from strange_protocols(v4, v6)
    yield from without_a_protocol(v4, v6)
    for where in ("224.0.0.251", "255.255.255.255", v4.rpartition(".")[0] + ".255"):
        broadcast = ((socket.SOL_SOCKET, socket.SO_BROADCAST, 1),)
        yield f"everybody {where}", lambda w=where, b=broadcast: udp((w, EVERYBODY), options=b)
    for where in ("ff02::fb", "ff02::1", "ff05::2"):
        yield f"everybody {where}", lambda w=where: udp((w, EVERYBODY, 0, link[1]))
    for port in left:
        yield f"a port that a free user left: {port}", lambda p=port: udp((v4, 53), port=p)
    for level, name, value in (
        (socket.SOL_IP, socket.IP_TOS, 0xB8),
        (socket.SOL_SOCKET, socket.SO_PRIORITY, 6),
        (socket.SOL_SOCKET, socket.SO_MARK, 1),
        (socket.SOL_IP, 19, 1),  # IP_TRANSPARENT
        (socket.SOL_IP, socket.IP_OPTIONS, bytes([131, 7, 4, *socket.inet_aton(v4), 0])),  # a loose source route
    ):
        yield f"option {level} {name}", lambda o=(level, name, value): udp((v4, 443), options=(o,))
    yield "delete the rules", lambda: program("nft", "delete", "table", "inet", "exequatur")
    yield "another network", lambda: program("ip", "link", "add", "x", "type", "dummy")
    yield "the world's namespace", lambda: program("nsenter", "--net=/proc/1/ns/net", "true")


def strange_protocols(v4: str, v6: str) -> Iterator[Attempt]:
    for name, where in (("v4", v4), ("v6", v6)):
        family = V6 if ":" in where else V4
        for port in (53, 443):
            yield f"udp-lite {name} {port}", lambda w=where, p=port: udp((w, p), protocol=UDPLITE)
            yield f"mptcp {name} {port}", lambda w=where, p=port: tcp((w, p), protocol=MPTCP)
        yield f"sctp {name}", lambda w=where: tcp((w, 443), protocol=SCTP)
        echo = (socket.IPPROTO_ICMPV6, 128) if family == V6 else (socket.IPPROTO_ICMP, 8)
        yield f"ping {name}", lambda w=where, f=family, e=echo: ping((w, 0), f, *e)


def without_a_protocol(v4: str, v6: str) -> Iterator[Attempt]:
    for protocol in (0x0800, 0x86DD):
        yield f"packet {protocol}", lambda p=protocol: packet(p)
        yield f"packet as root {protocol}", lambda p=protocol: in_user_namespace(lambda: packet(p))
    for protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_RAW):
        yield f"raw v4 {protocol}", lambda p=protocol: raw((v4, 0), V4, p)
        yield f"raw as root v4 {protocol}", lambda p=protocol: in_user_namespace(lambda: raw((v4, 0), V4, p))
    yield "raw v6", lambda: raw((v6, 0), V6, socket.IPPROTO_ICMPV6)


def main() -> None:
    v4, v6, link_local, *left = sys.argv[1:]
    found = {}
    for name, attempt in attempts(v4, v6, link_local, [int(port) for port in left]):
        try:
            found[name] = bool(attempt())
        except (OSError, ValueError):
            found[name] = False
    print(json.dumps(found))


if __name__ == "__main__":
    main()
