"""A full disk under each daemon: denials with their reason, one clear line, nothing lost, and recovery by itself.

The disk is full by `RLIMIT_FSIZE`, lowered and raised again on the running process: any user may do that, and the
kernel then really refuses to let a file grow past it. What is mapped on a full disk only a small disk can show. Logs go
through a pipe, which has no size.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import resource
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

import bank
from entries import records
from exequatur.client import CallError, Client, Decision, Effect, Proposal, ReasonKind
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.verifier import verify
from stack import OPENER, Process, Stack, free_port, http_get, running, until

READERS: list[subprocess.Popen[bytes]] = []
UNLIMITED = resource.RLIM_INFINITY


def spawn_with_pipe(process: Process) -> None:
    """Start a daemon that logs through a pipe: a full disk would swallow the very lines that we look for."""
    pipe = process.log.with_suffix(".pipe")
    os.mkfifo(pipe)
    env = {name: value for name, value in os.environ.items() if not name.startswith("EXEQUATUR_")}
    with process.log.open("ab") as log:
        READERS.append(subprocess.Popen(["cat", str(pipe)], stdout=log))  # ends with the daemon
    with pipe.open("wb") as log:
        process.popen = subprocess.Popen(process.command, stdout=log, stderr=log, start_new_session=True, env=env)


@contextlib.contextmanager
def full(pid: int, size: int = 0):
    """Let no file of a process grow past `size` bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


@dataclass
class Bank:
    """All of it running, who calls, and what they were answered."""

    stack: Stack
    teller: Client
    opener: Client
    answered: list[Decision] = field(default_factory=list)

    def ask(self, client: Client, tool: str = "bank/look", **arguments: object) -> Decision:
        decision = client.authorize(tool, arguments or {"account": "7"}, agent="teller")
        self.answered.append(decision)
        return decision

    def reserved(self) -> int:
        return self.opener.get_session(agent="teller").session.reserved_microusd

    def recorded(self) -> list[str]:
        return [record["decision_id"] for record in records(self.stack.log_folder) if record["kind"] == "decision"]

    def assert_alive(self) -> None:
        for process in (self.stack.ledger, self.stack.pdp, self.stack.sidecar):
            assert process.popen.poll() is None
            assert http_get(process.http, "/healthz")[0] == 200


@pytest.fixture(scope="module")
def whole():
    """One bank for all tests; at the end each answer that was on record anywhere is in the ledger, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "spawn", spawn_with_pipe)
        with running() as stack, stack.client() as teller, stack.client(OPENER) as opener:
            limits = {"max_steps": 10**6, "budget_microusd": 10 * bank.DOLLAR, "lifetime": dt.timedelta(hours=1)}
            opener.open_session("teller", bank.SIDECAR, scope=["*"], **limits)
            whole = Bank(stack, teller, opener)
            yield whole
            stack.stop()
            unrecorded = "the decision could not be recorded"
            wanted = {item.decision_id for item in whole.answered if item.reasons[0].text != unrecorded}
            found = Counter(whole.recorded())
            assert {number: found[number] for number in wanted if found[number] != 1} == {}
            report = verify(stack.log_folder, str(stack.log_key))
            assert report.ok, report.fault
    for reader in READERS:
        reader.wait(60)


@pytest.fixture(autouse=True)
def fresh_logs(whole):
    for process in (whole.stack.ledger, whole.stack.pdp, whole.stack.sidecar):
        os.truncate(process.log, 0)


def troubles(process: Process) -> set[str]:
    """What a daemon said at level error; fails for a traceback."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    assert [line for line in lines if "traceback" in line] == []
    assert "Traceback" not in process.log.read_text()
    return {line["message"] for line in lines if line["level"] in ("error", "critical")}


def test_a_decision_point_whose_spool_is_full_denies_and_gives_back(whole):
    state = whole.stack.folder / "state"
    segment, store = next((state / "spool-0").glob("*.seg")), state / "store.sqlite-wal"
    invalid = Proposal("bank/none", {}, agent="teller")
    while segment.stat().st_size < store.stat().st_size + 2**17:  # what is invalid leaves the store alone
        whole.teller.authorize_batch([invalid] * 50)
    with full(whole.stack.pdp.children()[0], segment.stat().st_size):
        for _ in range(3):
            denied = whole.ask(whole.teller, "bank/pay", to="x", dollars=1)
            assert (denied.effect, denied.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
            assert denied.reasons[0].text == "the decision could not be recorded"
        whole.assert_alive()
    assert whole.reserved() == 0
    assert whole.ask(whole.teller, "bank/pay", to="x", dollars=1).allowed
    assert whole.reserved() == bank.DOLLAR
    assert {text.partition(" `")[0] for text in troubles(whole.stack.pdp)} == {"the spool failed: the spool"}


def test_a_decision_point_whose_store_is_full_denies_on_record(whole):
    state = whole.stack.folder / "state"
    segment, store = next((state / "spool-0").glob("*.seg")), state / "store.sqlite-wal"
    while store.stat().st_size < segment.stat().st_size + 2**17:
        whole.ask(whole.teller)
    with full(whole.stack.pdp.children()[0], segment.stat().st_size + 2**16):
        for _ in range(3):
            denied = whole.ask(whole.teller)
            assert (denied.effect, denied.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
            assert denied.reasons[0].text == "the state could not be read or written"
        whole.assert_alive()
    assert whole.ask(whole.teller).allowed
    assert {text[:16] for text in troubles(whole.stack.pdp)} == {"the store failed"}


def test_a_sidecar_whose_spool_is_full_denies_and_gives_back(whole):
    before = whole.reserved()
    with whole.stack.agent() as agent:
        with full(whole.stack.sidecar.popen.pid):
            for _ in range(3):
                denied = whole.ask(agent, "bank/pay", to="x", dollars=1)
                assert (denied.effect, denied.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
                assert denied.reasons[0].text == "what happens to this action could not be recorded"
            with grpc.insecure_channel(f"unix:{whole.stack.socket}") as channel, pytest.raises(grpc.RpcError) as error:
                channel.unary_unary("/exequatur.v1.DecisionService/Authorize")(b"\xff", timeout=30)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            whole.assert_alive()
        assert whole.reserved() == before
        assert whole.ask(agent).allowed
    said = {text.partition(" cannot")[0] for text in troubles(whole.stack.sidecar)}
    assert said == {"an outcome", "a broken message"}


def test_a_ledger_whose_disk_is_full_takes_nothing_and_loses_nothing(whole):
    with full(whole.stack.ledger.popen.pid):
        during = [whole.ask(whole.teller) for _ in range(20)]
        assert all(decision.allowed for decision in during)
        until(lambda: "cannot be made durable" in whole.stack.pdp.log.read_text(), what="word of the full ledger")
        whole.assert_alive()
        assert during[-1].decision_id not in whole.recorded()
    until(lambda: during[-1].decision_id in whole.recorded(), what="the recovery")
    # Which file meets the end of the disk first is the kernel's choice: the log, or the index beside it.
    said = {text.removeprefix("records are not taken: the ").partition(" ")[0] for text in troubles(whole.stack.ledger)}
    assert said in ({"log"}, {"index"}, {"log", "index"})
    assert troubles(whole.stack.pdp) == set()


class OnSmallDisk(Process):
    """A daemon to which the folder of its log is a disk of 16 MiB, which goes with it."""

    @property
    def command(self) -> list[str]:
        """The whole command line; each of these becomes the next, in one process."""
        script = 'mount -t tmpfs -o size=16m,mode=700 tmpfs "$0" && exec "$@"'
        alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(self.disk)]
        return [*alone, *super().command]

    @property
    def disk(self) -> Path:
        """Where its disk is, to it."""
        return self.log.parent / "disk"

    @contextlib.contextmanager
    def full(self):
        """Leave no byte on its disk."""
        ballast = Path(f"/proc/{self.popen.pid}/root{self.disk}/ballast")
        with ballast.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            yield
        ballast.unlink()


def answers(client: Client) -> bool:
    """Say whether a worker judges: without a session that is a denial."""
    try:
        return client.authorize("bank/look", {"account": "7"}, agent="teller").reasons[0].kind is ReasonKind.INVALID
    except CallError:
        return False


def test_a_worker_that_starts_on_a_full_disk_says_so_is_not_killed_and_serves_when_there_is_room(tmp_path):
    subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=True)  # or it cannot be shown
    bundles, keys = bank.put(tmp_path, engine="cedar")
    target, http = f"127.0.0.1:{free_port()}", free_port()
    (tmp_path / "disk").mkdir()
    plain = ["--unsafe-plaintext", f"--openers={UNSAFE_PLAINTEXT}", f"--listen={target}", f"--http=127.0.0.1:{http}"]
    served = [f"--bundle={bundles}", f"--keys={keys}", f"--state={tmp_path}/disk/state", "--workers=1"]
    process = OnSmallDisk("pdp", ["pdp", "serve", *plain, *served], tmp_path / "pdp.log", http)
    try:
        process.start()
        with Client(target, unsafe_plaintext=True, timeout_s=10) as client:
            assert answers(client)
            with process.full():
                os.kill(process.children()[0], signal.SIGKILL)
                until(lambda: "database or disk is full" in process.log.read_text(), what="word of the full disk")
                assert http_get(http, "/healthz")[0] == 200
            until(lambda: answers(client), what="an answer")
        assert "SIGBUS" not in process.log.read_text()
        assert process.stop() == 0
    finally:
        process.kill()
