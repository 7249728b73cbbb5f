"""The ledger as a process: it keeps what it acknowledged over kill -9, and says in one line why it does not start."""

from __future__ import annotations

import asyncio
import json
import random
import resource
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exequatur import shipper
from exequatur.client import CallError, LedgerClient, Tls
from exequatur.shipper import Shipper
from exequatur.spool import Spool
from exequatur.trust.note import LogKey, open_checkpoint, recall_checkpoint
from exequatur.verifier import verify
from folders import quick
from ledger import server
from logs import KEY, LOG_KEY, ORIGIN, VERIFIER_KEY, make_log, records
from pki import Authority
from stack import Process, free_port, http_get, until
from starts import as_command, refusal

KILLS = 2
ME, AUDITOR = "spiffe://example.org/pdp", "spiffe://example.org/auditor"
MINE = ME + "#1"


class Ledger:
    """A ledger in a folder, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.target = folder / "log", f"127.0.0.1:{free_port()}"
        self.authority = Authority(folder / "pki")
        (folder / "log.key").write_bytes(pem(KEY))
        files, http = self.authority.issue("ledger", "spiffe://example.org/ledger"), free_port()
        self.argv = [
            *("ledger", "serve", f"--folder={self.folder}", f"--origin={ORIGIN}", f"--key={folder / 'log.key'}"),
            *(f"--listen={self.target}", f"--http=127.0.0.1:{http}", f"--writers={ME}", f"--auditors={AUDITOR}"),
            *(f"--tls-certificate={files.certificate}", f"--tls-key={files.key}", f"--tls-roots={files.roots}"),
        ]
        self.process = Process("ledger", self.argv, folder / "ledger.log", http)

    def client(self, identity: str = ME) -> LedgerClient:
        files = self.authority.issue(identity.rpartition("/")[2], identity)
        return LedgerClient(self.target, tls=Tls(files.certificate, files.key, files.roots), timeout_s=10)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.process.log.read_text().splitlines()]


@pytest.fixture
def ledger():
    """A ledger that does not run yet."""
    with quick() as folder:
        ledger = Ledger(folder)
        yield ledger
        ledger.process.kill()


@pytest.fixture(scope="module")
def running():
    """A ledger that runs, for who only looks at it, or fills it."""
    with quick() as folder:
        ledger = Ledger(folder)
        ledger.process.start()
        yield ledger
        try:
            size = int((ledger.folder / "checkpoint").read_text().splitlines()[1])
            assert ledger.process.stop() == 0
            assert ledger.lines()[-1]["message"] == f"stopped at {size} records"
        finally:
            ledger.process.kill()


async def test_what_was_acknowledged_is_there_once_after_kill_nine(ledger):
    number, rng, codes = 1, random.Random(2), set()
    for _ in range(KILLS):
        ledger.process.start()
        client = ledger.client()
        killing = asyncio.create_task(_kill_soon(ledger, rng.uniform(0.05, 0.4)))
        try:
            while True:
                ack = await client.append(MINE, number, records(number, 7, MINE), 0)
                number = ack.acknowledged + 1
        except CallError as error:
            codes.add(error.code)
        await killing
        await client.close()
        report = verify(ledger.folder, VERIFIER_KEY)
        assert report.ok, report.fault
        assert report.writers.get(MINE, 0) >= number - 1
    assert codes <= {"UNAVAILABLE", "CANCELLED", "UNKNOWN"}
    ledger.process.start()
    client = ledger.client()
    ack = await client.append(MINE, number, records(number, 7, MINE), 0)  # taken then or now, it is there once
    assert ack.acknowledged == number + 6
    await client.close()
    assert ledger.process.stop() == 0
    assert verify(ledger.folder, VERIFIER_KEY).size == number + 6


async def _kill_soon(ledger: Ledger, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await asyncio.to_thread(ledger.process.kill)


async def test_it_signs_while_nothing_happens_and_tells_its_metrics(running):
    client = running.client(AUDITOR)
    first = (await client.get_checkpoint()).checkpoint
    async with asyncio.timeout(60):
        while (await client.get_checkpoint()).checkpoint == first:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    newer = open_checkpoint((await client.get_checkpoint()).checkpoint, [LOG_KEY], ORIGIN)
    assert newer.size == open_checkpoint(first, [LOG_KEY], ORIGIN).size
    with pytest.raises(CallError, match="is no writer"):
        await client.append(AUDITOR + "#1", 1, records(1, 1, AUDITOR + "#1"), 0)
    await client.close()
    _, metrics = http_get(running.process.http, "/metrics")
    assert 'exequatur_calls_refused_total{status="permission_denied"} 1.0' in metrics


def test_a_log_that_is_not_what_it_signed_is_not_served(ledger):
    make_log(ledger.folder, 600)
    tile = ledger.folder / "tile/entries/001"
    good = tile.read_bytes()
    tile.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    assert "is not what its checkpoint signs: `tile/entries/001`" in refusal(ledger.argv, 64)
    tile.write_bytes(good)
    (ledger.folder / "checkpoint").unlink()
    assert "restore the checkpoint" in refusal(ledger.argv, 64)


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def rename_into(folder: Path, name: str, data: bytes) -> None:
    """Put a file into a folder as a careful person does."""
    (folder / f".{name}").write_bytes(data)
    (folder / f".{name}").replace(folder / name)


class Writer:
    """A spool, and a shipper that trusts `log_key`."""

    def __init__(self, folder: Path, client: LedgerClient, log_key: Path) -> None:
        self.spool = Spool.open(folder, identity=ME)
        self.shipper = Shipper(self.spool, client.append, log_key=log_key)
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self.shipper.run(self._stop))

    async def write(self) -> None:
        await self.spool.append({"kind": "decision"})

    async def stop(self) -> tuple[str, int]:
        """End when all is acknowledged; gives the writer and its last number."""
        async with asyncio.timeout(20):
            while self.spool.acknowledged < self.spool.last:  # noqa: ASYNC110  a spool tells nobody what it lets go of
                await asyncio.sleep(0.01)
        self._stop.set()
        await self._running
        self.spool.close()
        return self.spool.writer, self.spool.last


async def test_a_key_is_replaced_while_records_come_and_nobody_restarts(ledger, tmp_path, monkeypatch, caplog):
    """Put the new key beside the old, tell verifiers, take the old one away; who trusts either never complains."""
    monkeypatch.setattr(shipper, "WATCH_S", 0.05)
    new = Ed25519PrivateKey.generate()
    old_key, new_key = LOG_KEY, LogKey(ORIGIN, new.public_key())
    signing, trusting = tmp_path / "signing", tmp_path / "trusting"
    signing.mkdir()
    trusting.mkdir()
    (signing / "2026.key").write_bytes(pem(KEY))
    (trusting / "2026.vkey").write_text(VERIFIER_KEY)
    (tmp_path / "old.vkey").write_text(VERIFIER_KEY)
    (tmp_path / "new.vkey").write_text(str(new_key))
    ledger.argv[4] = f"--key={signing}"
    ledger.process.start()
    client = ledger.client()
    follows = Writer(tmp_path / "follows", client, trusting)
    trusts_old = Writer(tmp_path / "trusts-old", client, tmp_path / "old.vkey")

    async def write_until_signed_by(keys: list[LogKey], *writers: Writer) -> None:
        async with asyncio.timeout(20):
            while await signers() != keys:
                for writer in writers:
                    await writer.write()
                await asyncio.sleep(0.02)

    async def signers() -> list[LogKey]:
        note = (await client.get_checkpoint()).checkpoint
        return [key for key in (old_key, new_key) if recall_checkpoint(note, [key], ORIGIN)[1]]

    async def told(text: str) -> None:
        async with asyncio.timeout(20):
            while text not in caplog.messages:  # noqa: ASYNC110  a log wakes nobody
                await asyncio.sleep(0.01)

    await write_until_signed_by([old_key], follows, trusts_old)
    rename_into(signing, "2027.key", pem(new))
    await write_until_signed_by([old_key, new_key], follows, trusts_old)
    trusts_new = Writer(tmp_path / "trusts-new", client, tmp_path / "new.vkey")
    await trusts_new.write()
    await trusts_old.write()
    lasts = [await trusts_old.stop()]
    assert verify(ledger.folder, VERIFIER_KEY).ok
    assert verify(ledger.folder, str(new_key)).ok
    rename_into(trusting, "2027.vkey", str(new_key).encode())
    await told("the log keys have changed: 2026, 2027")
    (signing / "2026.key").unlink()
    await write_until_signed_by([new_key], follows, trusts_new)
    (trusting / "2026.vkey").unlink()
    await told("the log keys have changed: 2027")
    await follows.write()
    lasts += [await follows.stop(), await trusts_new.stop()]
    await client.close()
    assert not [entry for entry in caplog.records if entry.levelname == "CRITICAL"]
    assert ledger.process.stop() == 0
    ledger.process.start()  # the old key is needed no more
    assert ledger.process.stop() == 0
    report = verify(ledger.folder, str(new_key))
    assert report.ok
    assert report.writers == dict(lasts)


def test_why_it_does_not_start_is_one_line(ledger):
    """Each is a process of its own; one of them is the command line, and the others forked to save their imports."""
    key = ledger.folder.parent / "log.key"
    good = key.read_bytes()
    key.write_bytes(b"no key")
    text = f"error: `{key}`: the checkpoint key is no private key in PEM without a password"
    assert as_command(ledger.process, 64) == text
    key.unlink()
    assert refusal(ledger.argv, 64) == f"error: `{key}`: it cannot be read: no such file or directory"
    key.write_bytes(good)
    assert "/nowhere" in refusal([*ledger.argv, "--tls-key=/nowhere"], 64)


def test_a_log_and_a_port_that_a_running_ledger_has_are_refused(running, tmp_path):
    other = [*running.argv, f"--http=127.0.0.1:{free_port()}"]
    assert "is in use by another process" in refusal(other, 64)
    text = refusal([*other, f"--folder={tmp_path / 'another'}"], 69)
    assert f"cannot listen on `{running.target}`" in text


def test_a_full_disk_costs_no_record_and_no_restart(running):
    """A file may grow to 20 KiB and no further: a larger bundle does not fit until the limit is lifted."""
    ledger, pid = running, running.process.popen.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20 * 1024, hard))

    async def fill() -> int:
        client = ledger.client()
        number = 1
        for _ in range(5):
            ack = await client.append(MINE, number, records(number, 20, MINE), 0)
            number = ack.acknowledged + 1
        for _ in range(2):
            with pytest.raises(CallError, match="file too large") as error:
                await client.append(MINE, number, records(number, 100, MINE), 0)
            assert error.value.code == "UNAVAILABLE"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        ack = await client.append(MINE, number, records(number, 100, MINE), 0)
        await client.close()
        return ack.acknowledged

    acknowledged = asyncio.run(fill())
    assert ledger.process.popen.poll() is None
    until(lambda: any(line["message"] == "records are taken again" for line in ledger.lines()))
    assert sum(line["message"].startswith("records are not taken") for line in ledger.lines()) == 1
    report = verify(ledger.folder, VERIFIER_KEY)
    assert report.ok, report.fault
    assert report.size == acknowledged == 200


def test_what_is_in_force_is_printed(ledger, capsys):
    assert server.config(ledger.argv[2:]) == 0
    assert f'origin = "{ORIGIN}"' in capsys.readouterr().out
