"""A whole Exequatur as real processes in a folder: ledger, decision point and sidecar over mutual TLS.

Used by end-to-end, fault and bench code. Each process logs to a file in the folder; `Stack.stop` ends what runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bank
from exequatur.client import Client, Tls
from exequatur.trust.keys import generate
from exequatur.trust.note import LogKey
from folders import quick
from pki import Authority
from processes import children

PDP, LEDGER = "spiffe://example.org/pdp", "spiffe://example.org/ledger"
OPENER, AUDITOR = "spiffe://example.org/orchestrator", "spiffe://example.org/auditor"
ORIGIN = "example.org/audit"
DECISION_MS = 5000
"""How long the sidecar waits for a decision: longer than any takes on a machine that has a lot of other work."""


def free_port() -> int:
    """Find a port that is free, and that nobody is given who asks for any: those begin at 32768."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports go round")


def _ports() -> Iterator[int]:
    """Go round the ports of this test worker, from anywhere: the last run's may still be closing."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = range(20_000 + worker % 8 * 1500, 20_000 + (worker % 8 + 1) * 1500)
    offset = random.randrange(len(mine))
    return itertools.cycle([*mine[offset:], *mine[:offset]])


_PORTS = _ports()


def until(condition: Callable[[], bool], timeout_s: float = 60, what: str = "it", every_s: float = 0.02) -> None:
    """Wait until `condition()` holds, looking often; a process has no event to await from outside."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {timeout_s} s")
        time.sleep(every_s)


def http_get(port: int, path: str) -> tuple[int, str]:
    """Ask a daemon's HTTP port; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@dataclass
class Process:
    """One daemon: its arguments, where it logs, its HTTP port and that of its probes, and the process while it runs."""

    name: str
    argv: list[str]
    log: Path
    http: int
    health: int = 0
    env: dict[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """The whole command line."""
        return [sys.executable, "-I", "-m", "exequatur", *self.argv]

    def children(self) -> list[int]:
        """Give the process ids of its children, a decision point's workers."""
        assert self.popen is not None
        return children(self.popen.pid)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        until(self._up, 120, f"{self.name} up (see {self.log})")

    def spawn(self) -> None:
        """Start it."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("EXEQUATUR_")} | self.env
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True, env=env)

    def _up(self) -> bool:
        assert self.popen is not None
        if self.popen.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.popen.returncode}: {self.log.read_text()[-3000:]}")
        return http_get(self.http, "/readyz")[0] == 200

    def kill(self) -> None:
        """`kill -9` it and all its children."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def stop(self) -> int:
        """SIGTERM it, and wait."""
        if self.popen is None or self.popen.poll() is not None:
            return 0
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@dataclass
class Stack:
    """The three daemons, their certificates, and where everything is."""

    folder: Path
    workers: int = 1
    engine: str = "cedar"
    """What judges beside Cedar, if anything: Rego takes long to build and to prove."""
    pdp_extra: list[str] = field(default_factory=list)
    sidecar_extra: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "pki")
        self.bundles, self.keys = bank.put(self.folder, engine=self.engine)
        self.socket = self.folder / "sockets" / "teller.sock"
        self.socket.parent.mkdir(mode=0o700)
        private, _ = generate("Ed25519")
        (self.folder / "ledger.key").write_bytes(private)
        from exequatur.trust.keys import load_log_key

        self.log_key = LogKey(ORIGIN, load_log_key(private).public_key())
        (self.folder / "ledger.vkey").write_text(f"{self.log_key}\n")
        self.log_folder = self.folder / "log"
        pdp, ledger = free_port(), free_port()
        self.target, self.ledger_target = f"127.0.0.1:{pdp}", f"127.0.0.1:{ledger}"
        writers = [PDP, bank.SIDECAR]
        vkey = f"--log-key={self.folder / 'ledger.vkey'}"
        self.ledger = self._process(
            "ledger",
            ["ledger", "serve", *self._tls(LEDGER), f"--folder={self.log_folder}", f"--origin={ORIGIN}"],
            [f"--key={self.folder / 'ledger.key'}", f"--listen={self.ledger_target}"],
            [f"--writers={name}" for name in writers],
            [f"--auditors={AUDITOR}"],
        )
        self.pdp = self._process(
            "pdp",
            ["pdp", "serve", *self._tls(PDP), f"--listen={self.target}", f"--workers={self.workers}"],
            [f"--state={self.folder / 'state'}", f"--bundle={self.bundles}", f"--keys={self.keys}"],
            [f"--openers={OPENER}", f"--auditors={AUDITOR}", f"--ledger={self.ledger_target}", vkey],
            self.pdp_extra,
        )
        self.sidecar = self._process(
            "sidecar",
            ["sidecar", "run", *self._tls(bank.SIDECAR), f"--pdp={self.target}", f"--ledger={self.ledger_target}"],
            [f"--spool={self.folder / 'sidecar-spool'}", f"--agents=agent=teller,socket={self.socket}", vkey],
            [f"--decision-timeout-ms={DECISION_MS}"],
            self.sidecar_extra,
        )

    def _process(self, name: str, *argv: list[str]) -> Process:
        http, health = free_port(), free_port()
        flat = [item for part in argv for item in part]
        ports = [f"--http=127.0.0.1:{http}", f"--health=127.0.0.1:{health}"]
        return Process(name, [*flat, *ports], self.folder / f"{name}.log", http, health)

    def _tls(self, identity: str) -> list[str]:
        files = self.tls(identity)
        return [f"--tls-certificate={files.certificate}", f"--tls-key={files.key}", f"--tls-roots={files.roots}"]

    def tls(self, identity: str) -> Tls:
        """Make certificate files for `identity`."""
        files = self.authority.issue(self.tls_name(identity), identity)
        return Tls(files.certificate, files.key, files.roots)

    def tls_name(self, identity: str) -> str:
        """Give what the files of `identity` are called."""
        return identity.removeprefix("spiffe://").replace("/", "-")

    def client(self, identity: str = bank.SIDECAR) -> Client:
        """Reach the decision point as `identity`."""
        return Client(self.target, tls=self.tls(identity), timeout_s=30)

    def agent(self) -> Client:
        """Reach the sidecar's socket, as the agent does."""
        return Client(f"unix:{self.socket}", timeout_s=30)

    def start(self) -> None:
        """Start all three."""
        for process in (self.ledger, self.pdp, self.sidecar):
            process.start()

    def stop(self) -> None:
        """Stop all three in order; kill what does not stop."""
        for process in (self.sidecar, self.pdp, self.ledger):
            process.stop()


@contextlib.contextmanager
def running(**options: object) -> Iterator[Stack]:
    """A stack in a folder with a short name, gone with it afterwards."""
    with quick() as folder:
        stack = Stack(folder, **options)  # type: ignore[arg-type]
        try:
            stack.start()
            yield stack
            stack.stop()
        finally:
            for process in (stack.sidecar, stack.pdp, stack.ledger):
                process.kill()
