"""Ports and sockets before anybody serves on them: that they are free, ours, and nobody else's to put something in.

Rules: nothing here knows what is spoken; whoever cannot have what it asks for is told why in one sentence.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final

MOUNTED: Final = 0o666
"""The mode of a socket that whoever sees may use."""


class ListenError(Exception):
    """Why a port or a socket cannot be opened: one sentence."""


def is_loopback(address: str) -> bool:
    """Whether `HOST:PORT` names this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hold_port(address: str) -> tuple[socket.socket, str]:
    """Make sure that `HOST:PORT` is free, and keep it for our own workers (Linux, `SO_REUSEPORT`).

    First bound without the option, so that a taken port is an error; then with it, without listening: a socket that
    does not listen is given no connection. Returns the socket to keep, and the address with its real port.
    """
    host, _, port = address.rpartition(":")
    try:
        with unbound(host) as probe:
            # Connections of our last life that linger do not count; who listens or holds the port still does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
            real = probe.getsockname()[1]
        held = unbound(host)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host.strip("[]"), real))
    except (OSError, ValueError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ListenError(f"cannot listen on `{address}`: {reason}") from None
    return held, f"{host}:{real}"


def unbound(host: str) -> socket.socket:
    """Make a socket for `host`, which may be in brackets; `::` is every address, those of IPv4 too."""
    if ":" not in host:
        return socket.socket(socket.AF_INET)
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made


def own_folder(folder: Path, *, make: bool) -> None:
    """See that `folder` is ours and writable by nobody else, or anybody could put another socket in its place.

    With `make` we make it, for all to pass and nobody to list: what is mounted is everybody's. Raises `ListenError`.
    """
    if make:
        folder.mkdir(mode=0o711, exist_ok=True)
        if folder.is_symlink():
            raise ListenError(f"`{folder}` must be a folder, and is a link: remove it")
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ListenError(f"`{folder}` must belong to this user and be writable by nobody else")
    if make:
        folder.chmod(0o711)  # whatever our umask is


def make_way(path: Path) -> None:
    """Take away a socket at `path` that nobody listens on. Raises `ListenError` where one does, or none can be."""
    if len(os.fsencode(path)) > 100:  # noqa: PLR2004  sockaddr_un holds 108 bytes
        raise ListenError(f"`{path}` is too long for a socket: at most 100 bytes")
    if _answers(path):
        raise ListenError(f"`{path}` is taken by a running process")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
