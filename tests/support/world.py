"""What is outside a pod: servers that answer, and an ear for every packet. A script, run in the world's network.

    python world.py PORT...

Prints `ready`; then for each line on standard input what it has heard from the pod since the last one, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

OWN = {133, 134, 135, 136, 143}
"""ICMPv6 of the kernel's own: neighbours and multicast listeners."""


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greet, and count what is sent until the end."""
    writer.write(b"hello")
    try:
        size = len(await reader.read(-1))
        writer.write(str(size).encode())
        writer.close()
        await writer.wait_closed()
    except OSError:
        writer.close()


class Echo(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        self.transport.sendto(data, addr)


def read(ear: socket.socket) -> list[str]:
    """Name each packet that came in, of IP alone and without the kernel's own."""
    heard = []
    while True:
        try:
            data, (_, kind, direction, *_) = ear.recvfrom(128)
        except BlockingIOError:
            return heard
        if direction == 4:  # our own
            continue
        if kind == 0x0800:
            heard.append(f"v4 {data[9]} to {socket.inet_ntoa(data[16:20])}")
        elif kind == 0x86DD and not (data[6] == 58 and data[40] in OWN) and not (data[6] == 0 and data[48] in OWN):
            heard.append(f"v6 {data[6]} to {socket.inet_ntop(socket.AF_INET6, data[24:40])}")


async def main() -> None:
    loop = asyncio.get_running_loop()
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    ear.bind(("eth0", 3))
    ear.setblocking(False)
    for port in map(int, sys.argv[1:]):
        both = socket.create_server(("::", port), family=socket.AF_INET6, backlog=1000, dualstack_ipv6=True)
        await asyncio.start_server(hello, sock=both)
        both = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", port))
        await loop.create_datagram_endpoint(Echo, sock=both)
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    print("ready", flush=True)
    while await stdin.readline():
        print(json.dumps(read(ear)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
