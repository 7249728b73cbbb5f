"""A network of pods on this machine: a bridge, and a network namespace with an address of its own for each pod.

Names begin with `exq` and the process that made them, so that what a killed run has left is found by the next one.
Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

PREFIX = "exq"


def _ip(*arguments: str, namespace: str = "", batch: str = "") -> str:
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, *arguments], input=batch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()} {batch}")
    return done.stdout


class Network:
    """One bridge with a /24 of its own; the test itself is at `.1`, as a node is."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise PermissionError("pods run in namespaces of their own: run these tests as root")
        clear_leftovers()
        pid = os.getpid()
        self._base = f"{PREFIX}{pid}"
        self._bridge = f"{self._base}b"
        self._subnet = f"10.{200 + pid % 50}.{pid // 50 % 250}"
        self.node = f"{self._subnet}.1"
        self._next, self._lock = 9, threading.Lock()
        self._taken: list[str] = []
        _ip(
            "-batch",
            "-",
            batch=f"link add {self._bridge} type bridge forward_delay 0\n"
            f"addr add {self._subnet}.1/24 dev {self._bridge}\nlink set {self._bridge} up\n",
        )

    def add(self) -> tuple[str, str]:
        """Make a namespace with an address; gives its name and the address."""
        with self._lock:
            self._next += 1
            number = self._next
        name, address = f"{self._base}-{number}", f"{self._subnet}.{number}"
        outside, inside = f"{self._base}v{number}", f"{self._base}w{number}"
        self._taken.append(name)
        _ip("netns", "add", name)
        _ip(
            "-batch",
            "-",
            batch=f"link add {outside} type veth peer name {inside} netns {name}\n"
            f"link set {outside} master {self._bridge} up\n",
        )
        _ip(
            "-batch",
            "-",
            namespace=name,
            batch=f"link set {inside} name eth0\nlink set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n"
            f"route add default via {self._subnet}.1\n",
        )
        return name, address

    def remove(self, name: str) -> None:
        """End what runs in a namespace, and remove it."""
        _remove(name)
        with contextlib.suppress(ValueError):
            self._taken.remove(name)

    def close(self) -> None:
        """Remove everything."""
        for name in list(self._taken):
            self.remove(name)
        _ip("link", "del", self._bridge)


def clear_leftovers() -> None:
    """Remove what runs that were killed have left."""
    for path in Path("/run/netns").glob(f"{PREFIX}*-*"):
        if _is_left(path.name):
            _remove(path.name)
    for link in json.loads(_ip("-j", "link", "show", "type", "bridge") or "[]"):
        if link and link["ifname"].startswith(PREFIX) and _is_left(link["ifname"]):
            _ip("link", "del", link["ifname"])


def _is_left(name: str) -> bool:
    found = re.match(rf"{PREFIX}(\d+)[-b]", name)
    return found is not None and not Path(f"/proc/{found[1]}").exists()


def _remove(name: str) -> None:
    with contextlib.suppress(RuntimeError):
        for pid in _ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "del", name)
