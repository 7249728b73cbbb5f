"""What the demo stands on: a folder, certificates, real processes, and a promise to leave none of it behind.

Rules: everything is made in two new folders and removed with them; a process is started in a session of its own, so
that Ctrl-C reaches us alone and we end them in order; what does not start says so with its own last words.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import ipaddress
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_S: Final = 60.0
"""How long a daemon may take to be ready: a quiet machine with two cores needs three."""

STOP_S: Final = 10.0
"""How long it may take to stop before it is killed: longer than its own grace."""

_POLL_S: Final = 0.03
_PORTS: Final = range(20_000, 32_768)  # below Linux's, macOS's and IANA's ephemeral ones: ours until a daemon listens
_HOUR: Final = dt.timedelta(hours=1)


class StageError(Exception):
    """Why the demo cannot go on: one sentence."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, its key, and the roots that sign everybody here: paths of PEM files."""

    certificate: Path
    key: Path
    roots: Path

    def flags(self) -> list[str]:
        """Give them as a daemon takes them."""
        return [f"--tls-certificate={self.certificate}", f"--tls-key={self.key}", f"--tls-roots={self.roots}"]


class Authority:
    """A certificate authority that lives for an hour, in a folder."""

    def __init__(self, folder: Path) -> None:
        """Make its key, which never leaves this process, and write its certificate."""
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exequatur demo")])
        certificate = (
            self._unsigned(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._roots = folder / "roots.pem"
        self._roots.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, spiffe_id: str) -> Identity:
        """Write a certificate for `spiffe_id` on loopback, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(spiffe_id),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            self._unsigned(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        made = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key", self._roots)
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.touch(mode=0o600)
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def _unsigned(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _HOUR,
            not_valid_after=now + _HOUR,
        )


class Stage:
    """Processes that are stopped, last one first, and folders that are removed, when the context ends."""

    def __init__(self) -> None:
        """Make nothing yet."""
        self._folders: list[Path] = []
        self._running: list[tuple[str, asyncio.subprocess.Process]] = []
        self._logs: Path | None = None

    async def __aenter__(self) -> Self:
        """Make the folder of logs."""
        self._logs = self.folder("exequatur-house-")
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Stop and remove, whatever happened, and also when somebody is impatient."""
        try:
            await self.stop()
        finally:
            for _, process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self, prefix: str) -> Path:
        """Make a folder of our own under /tmp: sockets need short paths, and the pack knows the workspace by it."""
        made = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir="/tmp"))
        self._folders.append(made)
        return made

    async def start(self, name: str, *arguments: str | Path) -> None:
        """Start one of our daemons; it is not ready yet."""
        assert self._logs is not None
        with (self._logs / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command(*arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        self._running.append((name, process))

    async def stop(self) -> None:
        """Stop all daemons in order, the last one started first: each hands on what it has."""
        for _, process in reversed(self._running):
            await _stop(process)

    async def ready(self, ports: Sequence[int]) -> None:
        """Wait until each daemon says on its HTTP port that it is ready.

        Raises `StageError` with the last words of one that ended, or with the name of one that is late.
        """
        until = time.monotonic() + START_S
        for port in ports:
            while not await asyncio.to_thread(_is_ready, port):
                self.check()
                if time.monotonic() > until:
                    raise StageError(f"a daemon was not ready within {START_S:.0f} s; is the machine very busy")
                await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raise `StageError` if a process has ended."""
        assert self._logs is not None
        for name, process in self._running:
            if process.returncode is not None:
                words = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines() or ["no words"]
                raise StageError(f"the {name} ended with code {process.returncode}: {_message(words[-1])}")


def command(*arguments: str | Path) -> list[str]:
    """Give the command line of our own command with this Python, isolated from the working folder."""
    return [sys.executable, "-I", "-m", "exequatur", *map(str, arguments)]


def git(folder: Path, *arguments: str) -> None:
    """Run git in `folder` without the settings of whoever runs the demo; raises `StageError`."""
    clean = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**environment(), **clean}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"`git {arguments[0]}` failed: {(done.stderr.strip().splitlines() or ['no words'])[-1]}")


def environment() -> dict[str, str]:
    """Give our environment without the settings in it that were meant for other daemons, and other repositories."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("EXEQUATUR_", "GIT_"))}


def free_ports(count: int) -> list[int]:
    """Find loopback ports that nobody uses now, among those that the kernel gives nobody who asks for any."""
    drawn = random.SystemRandom().sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(_is_free, drawn), count))


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[Callable[[], None]]:
    """Let SIGINT, SIGTERM and SIGHUP cancel the current task, so that it can clean up.

    Gives what raises the cancellation again, as leaving does: whoever was waiting may have kept it to themselves.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    told = False

    def cancel() -> None:
        nonlocal told
        told = True
        task.cancel()

    def go_on() -> None:
        if told:
            raise asyncio.CancelledError

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, cancel)
    try:
        yield go_on
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    go_on()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_S)


def _message(line: str) -> str:
    """Take the message out of a log line of ours."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.removeprefix("error: ")
