"""What a daemon cannot start with: one clear line and the right exit code; a bad bundle keeps nothing but itself out.

Each start is a process of its own. Most are forked from one that has imported everything; one for each exit code is the
command line itself.
"""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import pytest

import bank
from exequatur.spool import Spool
from exequatur.transport import ListenError
from exequatur.trust.archive import write_archive
from folders import quick
from logs import open_log
from pki import Authority
from stack import Process, Stack, http_get, until
from starts import as_command, refusal

CONFIG, UNREACHABLE = 64, 69
GARBAGE = b"-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n"
DAEMONS = ["ledger", "pdp", "sidecar"]


@pytest.fixture
def stack():
    with quick() as folder:
        stack = Stack(folder)
        yield stack
        for process in (stack.sidecar, stack.pdp, stack.ledger):
            process.kill()


def with_flags(process: Process, **flags: object) -> Process:
    """Give the daemon with other flags; None takes one away."""
    names = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    argv = [item for item in process.argv if item.partition("=")[0] not in names]
    more = [name if value is True else f"{name}={value}" for name, value in names.items() if value is not None]
    return replace(process, argv=[*argv, *more])


@pytest.mark.parametrize("flag", ["listen", "http"])
@pytest.mark.parametrize("name", ["ledger", "pdp"])
def test_a_taken_port(stack, name, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refusal(with_flags(getattr(stack, name), **{flag: address}).argv, UNREACHABLE)


def test_a_taken_socket(stack):
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(stack.socket))
        taken.listen()
        assert "taken by a running process" in as_command(stack.sidecar, UNREACHABLE)


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
    assert str(path) in refusal(with_flags(process, tls_certificate=path).argv, CONFIG)
    path.write_bytes(GARBAGE)
    for flag in ("tls_key", "tls_roots"):
        assert str(path) in refusal(with_flags(process, **{flag: path}).argv, CONFIG)


def test_a_ledgers_key_that_is_none(stack):
    path = stack.folder / "ledger.key"
    path.write_bytes(GARBAGE)
    assert "private key" in as_command(stack.ledger, CONFIG)


@pytest.mark.parametrize("name", ["pdp", "sidecar"])
def test_a_verifier_key_that_is_none(stack, name):
    path = stack.folder / "ledger.vkey"
    path.write_text("nonsense\n")
    assert str(path) in refusal(getattr(stack, name).argv, CONFIG)


def test_a_folder_of_keys_that_is_empty_and_one_with_a_bad_key(stack):
    (stack.keys / "bank.pem").unlink()
    assert "the key folder is empty" in refusal(stack.pdp.argv, CONFIG)
    (stack.keys / "bank.pem").write_bytes(GARBAGE)
    assert "bank.pem" in refusal(stack.pdp.argv, CONFIG)


@pytest.mark.parametrize("name", DAEMONS)
def test_a_name_that_is_no_setting(stack, name):
    variable = f"EXEQUATUR_{name.upper()}_LISTNE"
    assert variable in refusal(getattr(stack, name).argv, CONFIG, **{variable: "127.0.0.1:1"})
    file = stack.folder / "settings.toml"
    file.write_text('listne = "127.0.0.1:1"\n')
    assert "listne" in refusal(with_flags(getattr(stack, name), config=file).argv, CONFIG)


def test_folders_that_another_process_uses(stack):
    spool = Spool.open(stack.folder / "sidecar-spool", identity=bank.SIDECAR)
    assert "in use by another process" in refusal(stack.sidecar.argv, CONFIG)
    spool.close()
    log = open_log(stack.log_folder)
    assert "in use by another process" in refusal(stack.ledger.argv, CONFIG)
    log.close()


def test_bundles_that_are_not_served_and_a_folder_that_another_decision_point_uses(stack):
    stranger = bank.SigningKey.from_pem("bank.pem", bank.generate("RS256")[0])
    bad = {
        "bank-1.tar.gz": (bank.archive(engine="cedar", days=-1), "expired"),
        "bank-2.tar.gz": (bank.archive(2, engine="cedar", key=stranger), "the signature does not hold"),
        "bank-3.tar.gz": (write_archive(bank.files(engine="cedar")), "signature"),
    }
    for name, (archive, _) in bad.items():
        (stack.bundles / name).write_bytes(archive)
    stack.pdp.spawn()

    def refused() -> list[str]:
        return [line for line in stack.pdp.log.read_text().splitlines() if "a bundle is refused" in line]

    until(lambda: len(refused()) == len(bad), 60, what="word of the bundles")
    status, text = http_get(stack.pdp.http, "/readyz")
    assert (status, json.loads(text)["missing"]) == (503, ["first bundle", "worker 0"])
    for name, (_, why) in bad.items():
        (line,) = [line for line in refused() if name in line]
        assert why in line
    assert "raceback" not in stack.pdp.log.read_text()
    elsewhere = with_flags(stack.pdp, http="127.0.0.1:0", health="127.0.0.1:0")
    assert "in use by another decision point" in refusal(elsewhere.argv, CONFIG)
    bank.put(stack.folder, 4, engine="cedar")
    until(lambda: http_get(stack.pdp.http, "/readyz")[0] == 200, 60, what="service under a good bundle")
    assert stack.pdp.stop() == 0
