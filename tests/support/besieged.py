"""One decision point that is attacked while it serves: real processes, a folder of bundles, and a client that goes on.

The client asks all the time, from a thread of its own; what it was told, and what failed, is looked at afterwards.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import bank
from exequatur.client import Client
from exequatur.spool import Spool
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.values import Effect
from folders import quick
from processes import children
from stack import Process, free_port, until


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: when it was asked for (monotonic), how long that took, and what it named."""

    at: float
    took_s: float
    sequence: int
    digest: str
    decision: str


@dataclass
class Caller:
    """Looks at an account, time and again; `failed` holds what was no allow."""

    client: Client
    pause_s: float
    instance: str = ""
    told: list[Told] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Go on until `stop`."""
        while not self._over.wait(self.pause_s):
            begun = time.monotonic()
            try:
                answer = self.client.authorize("bank/look", {"account": "7"}, agent="teller", instance=self.instance)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is a failure
                self.failed.append(repr(error))
                continue
            took_s = time.monotonic() - begun
            sequence, digest = answer.bundle_sequence, answer.bundle_sha256.hex()
            self.told.append(Told(begun, took_s, sequence, digest, answer.decision_id))
            if answer.effect is not Effect.ALLOW:
                self.failed.append(repr(answer))

    def stop(self) -> None:
        """Make no more calls."""
        self._over.set()


@dataclass
class Besieged:
    """The decision point, and the folder that it watches."""

    process: Process
    address: str
    bundles: Path
    keys: Path
    state: Path

    @property
    def pids(self) -> list[int]:
        """The supervisor, then those of its children that are workers."""
        assert self.process.popen
        assert self.process.popen.poll() is None, self.process.log.read_text()[-2000:]
        return [self.process.popen.pid, *children(self.process.popen.pid, "\0worker")]

    @property
    def most_memory(self) -> int:
        """The most that any of these processes ever had, in bytes."""
        return max(_peak(pid) for pid in self.pids)

    @property
    def status(self) -> dict[str, Any]:
        """What it says of itself: `tenants` (there is one) and `alarms`."""
        return dict(json.loads((self.state / "status.json").read_bytes()))

    @property
    def tenant(self) -> dict[str, Any]:
        """What it says of its one tenant."""
        return dict(self.status["tenants"][0])

    def put(self, name: str, data: bytes) -> Path:
        """Put a bundle into the folder, whole."""
        hidden = self.bundles / f".{name}"
        hidden.write_bytes(data)
        return hidden.rename(self.bundles / name)

    def refusals(self, name: str) -> list[str]:
        """Give the lines of the log that refuse a bundle by its name."""
        pattern = re.compile(rf"a bundle is refused: .*`(?:{re.escape(str(self.bundles))}/)?{re.escape(name)}`")
        return [line for line in self.process.log.read_text().splitlines() if pattern.search(line)]

    def refused(self, name: str, timeout_s: float = 60) -> str:
        """Wait until a bundle is refused, and give the line that says so."""
        until(lambda: bool(self.refusals(name)), timeout_s, f"the refusal of {name}")
        return self.refusals(name)[0]

    def client(self, instance: str = "") -> Client:
        """Make a client with a session of its own."""
        client = Client(self.address, unsafe_plaintext=True, timeout_s=30)
        client.open_session(
            "teller", UNSAFE_PLAINTEXT, instance=instance, lifetime=timedelta(hours=1), scope=["*"], max_steps=10**7
        )
        return client

    @contextlib.contextmanager
    def calls(self, pause_s: float = 0.02, callers: int = 1) -> Iterator[list[Caller]]:
        """Have callers ask all the time, each on a connection and a session of its own, while the context lasts."""
        with contextlib.ExitStack() as stack:
            asking = [
                Caller(stack.enter_context(self.client(f"i{number}")), pause_s, f"i{number}")
                for number in range(callers)
            ]
            threads = [threading.Thread(target=caller.run) for caller in asking]
            for thread in threads:
                thread.start()
            try:
                yield asking
            finally:
                for caller in asking:
                    caller.stop()
                for thread in threads:
                    thread.join()

    def records(self) -> list[dict[str, Any]]:
        """Read what its workers put on record; it must not run any more."""
        found: list[dict[str, Any]] = []
        for folder in sorted(self.state.glob("spool-*")):
            with contextlib.closing(Spool.open(folder, identity=UNSAFE_PLAINTEXT)) as spool:
                found += [json.loads(data) for data in spool.read(1, 10**7, 2**31)]
        return found


def small() -> dict[str, bytes]:
    """Give the bank's bundle without its Rego: nothing has to be built, and it is proved in half the time."""
    return bank.files(engine="cedar")


@contextlib.contextmanager
def besieged(
    *extra: str,
    first: Callable[[], bytes] = bank.archive,
    keys: Mapping[str, bytes] | None = None,
    source: str = "",
    workers: int = 2,
) -> Iterator[Besieged]:
    """Run a decision point on the bank's bundle, or another one; `extra` are further options.

    `keys` are the files of its key folder, if not the bank's key; `source` is where it looks, if not in a folder.
    """
    with quick() as folder:
        http = free_port()
        bundles, trusted, state = folder / "bundles", folder / "keys", folder / "state"
        bundles.mkdir()
        trusted.mkdir()
        for file, content in ({"bank.pem": bank.public_pem()} if keys is None else keys).items():
            (trusted / file).write_bytes(content)
        if not source:
            (bundles / "first.tar.gz").write_bytes(first())
        address = f"127.0.0.1:{free_port()}"
        argv = ["pdp", "serve", "--unsafe-plaintext", f"--listen={address}", f"--http=127.0.0.1:{http}"]
        argv += [f"--workers={workers}", f"--state={state}", f"--bundle={source or bundles}", f"--keys={trusted}"]
        process = Process("pdp", [*argv, f"--openers={UNSAFE_PLAINTEXT}", *extra], folder / "pdp.log", http)
        try:
            process.start()
            yield Besieged(process, address, bundles, trusted, state)
        finally:
            process.kill()


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
