"""What a daemon cannot start with: one clear line and the right exit code; a bad bundle keeps nothing but itself out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import bank
from exequatur.spool import Spool
from exequatur.transport import ListenError
from exequatur.trust.archive import write_archive
from pki import Authority
from stack import Process, Stack, http_get, until

CONFIG, UNREACHABLE = 64, 69
GARBAGE = b"-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n"
DAEMONS = ["ledger", "pdp", "sidecar"]


@pytest.fixture
def stack():
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        stack = Stack(Path(name))
        yield stack
        for process in (stack.sidecar, stack.pdp, stack.ledger):
            process.kill()


def with_flags(process: Process, **flags: object) -> Process:
    """Give the daemon with other flags; None takes one away."""
    names = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    argv = [item for item in process.argv if item.partition("=")[0] not in names]
    more = [name if value is True else f"{name}={value}" for name, value in names.items() if value is not None]
    return replace(process, argv=[*argv, *more])


def refusal(process: Process, code: int, **environ: str) -> str:
    """Start a daemon that has to end with `code`; gives its one line of error."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EXEQUATUR_")} | environ
    done = subprocess.run(process.command, capture_output=True, text=True, timeout=30, env=env, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert '"traceback"' not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("flag", ["listen", "http"])
@pytest.mark.parametrize("name", ["ledger", "pdp"])
def test_a_taken_port(stack, name, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refusal(with_flags(getattr(stack, name), **{flag: address}), UNREACHABLE)


def test_a_taken_socket(stack):
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(stack.socket))
        taken.listen()
        assert "taken by a running process" in refusal(stack.sidecar, UNREACHABLE)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", GARBAGE], ids=["missing", "empty", "no PEM", "no key"])
@pytest.mark.parametrize("file", ["certificate", "key", "roots"])
def test_tls_files_that_cannot_be_used(tmp_path, file, content):
    path = tmp_path / "other.pem"
    if content is not None:
        path.write_bytes(content)
    files = Authority(tmp_path / "pki").issue("one", bank.SIDECAR)
    files.read()
    with pytest.raises(ListenError, match=str(path)):
        replace(files, **{file: path}).read()


def test_a_key_of_another_certificate(tmp_path):
    authority = Authority(tmp_path)
    files, others = authority.issue("one", bank.SIDECAR), authority.issue("two", bank.SIDECAR)
    with pytest.raises(ListenError, match="no certificate and its key"):
        replace(files, key=others.key).read()


@pytest.mark.parametrize("name", DAEMONS)
def test_no_daemon_starts_with_tls_files_that_cannot_be_used(stack, name):
    process, path = getattr(stack, name), stack.folder / "other.pem"
    assert str(path) in refusal(with_flags(process, tls_certificate=path), CONFIG)
    path.write_bytes(GARBAGE)
    for flag in ("tls_key", "tls_roots"):
        assert str(path) in refusal(with_flags(process, **{flag: path}), CONFIG)


def test_a_ledgers_key_that_is_none(stack):
    path = stack.folder / "ledger.key"
    path.write_bytes(GARBAGE)
    assert "private key" in refusal(stack.ledger, CONFIG)


@pytest.mark.parametrize("name", ["pdp", "sidecar"])
def test_a_verifier_key_that_is_none(stack, name):
    path = stack.folder / "ledger.vkey"
    path.write_text("nonsense\n")
    assert str(path) in refusal(getattr(stack, name), CONFIG)


def test_a_folder_of_keys_that_is_empty_and_one_with_a_bad_key(stack):
    (stack.keys / "bank.pem").unlink()
    assert "the key folder is empty" in refusal(stack.pdp, CONFIG)
    (stack.keys / "bank.pem").write_bytes(GARBAGE)
    assert "bank.pem" in refusal(stack.pdp, CONFIG)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_name_that_is_no_setting(stack, name):
    variable = f"EXEQUATUR_{name.upper()}_LISTNE"
    assert variable in refusal(getattr(stack, name), CONFIG, **{variable: "127.0.0.1:1"})
    file = stack.folder / "settings.toml"
    file.write_text('listne = "127.0.0.1:1"\n')
    assert "listne" in refusal(with_flags(getattr(stack, name), config=file), CONFIG)


def test_folders_that_another_process_uses(stack):
    elsewhere = {"http": "127.0.0.1:0", "health": "127.0.0.1:0"}
    spool = Spool.open(stack.folder / "sidecar-spool", identity=bank.SIDECAR)
    assert "in use by another process" in refusal(stack.sidecar, CONFIG)
    spool.close()
    stack.ledger.start()
    assert "in use by another process" in refusal(with_flags(stack.ledger, **elsewhere), CONFIG)
    stack.pdp.spawn()
    until(lambda: http_get(stack.pdp.http, "/healthz")[0] == 200, what="the first decision point")
    assert "in use by another decision point" in refusal(with_flags(stack.pdp, **elsewhere), CONFIG)


def test_bundles_that_are_not_served(stack):
    stranger = bank.SigningKey.from_pem("bank.pem", bank.generate("RS256")[0])
    bad = {
        "bank-1.tar.gz": (bank.archive(days=-1), "expired"),
        "bank-2.tar.gz": (bank.archive(2, key=stranger), "the signature does not hold"),
        "bank-3.tar.gz": (write_archive(bank.files()), "signature"),
    }
    for name, (archive, _) in bad.items():
        (stack.bundles / name).write_bytes(archive)
    stack.pdp.spawn()

    def refused() -> list[str]:
        return [line for line in stack.pdp.log.read_text().splitlines() if "a bundle is refused" in line]

    until(lambda: len(refused()) == len(bad), what="word of the bundles")
    status, text = http_get(stack.pdp.http, "/readyz")
    assert (status, json.loads(text)["missing"]) == (503, ["first bundle", "worker 0"])
    for name, (_, why) in bad.items():
        (line,) = [line for line in refused() if name in line]
        assert why in line
    assert "raceback" not in stack.pdp.log.read_text()
    bank.put(stack.folder, 4)
    until(lambda: http_get(stack.pdp.http, "/readyz")[0] == 200, what="service under a good bundle")
    assert stack.pdp.stop() == 0
