"""What an auditor sees: the last records, and whether the log is what it signed, with exit 1 and where if not."""

from __future__ import annotations

import json
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from exequatur.cli.audit import app
from exequatur.trust.note import LogKey
from logs import NOW, ORIGIN, VERIFIER_KEY, make_log, open_log, records

RUNNER = CliRunner(env={"COLUMNS": "160"})


def run(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "log"
    log = open_log(folder)
    denied = [{"kind": "forbidden", "policy": "no-secrets", "engine": "cedar", "text": "[red]secrets[/] stay"}]
    log.append(records(1, 300, time="2026-01-05T10:00:00.000000Z"), NOW)
    log.append(records(301, 1, effect="deny", reasons=denied, agent="coder"), NOW)
    log.append(records(302, 1, kind="session", event="opened", effect=""), NOW)
    log.close()
    return folder


def test_a_good_log_is_said_to_be_good(folder, tmp_path):
    key = tmp_path / "log.vkey"
    key.write_text(VERIFIER_KEY + "\n")
    text = run("verify", folder, "--key", key)
    assert "verified" in text
    assert "302 records" in text
    value = json.loads(run("verify", folder, "--key", VERIFIER_KEY, "--json"))
    assert value["ok"] is True
    assert (value["size"], value["time"]) == (302, "2026-01-05T10:00:00Z")
    assert list(value["writers"].values()) == [302]


def test_a_broken_log_is_exit_one_and_where(folder):
    tile = folder / "tile/entries/000"
    data = tile.read_bytes()
    tile.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert "broken entry 0 in tile/entries/000: bytes 2 to " in run("verify", folder, "--key", VERIFIER_KEY, code=1)
    value = json.loads(run("verify", folder, "--key", VERIFIER_KEY, "--json", code=1))
    assert value["ok"] is False
    assert value["fault"]["where"] == "entry 0 in tile/entries/000"


def test_a_checkpoint_that_was_kept_finds_a_cut(folder, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text((folder / "checkpoint").read_text())
    assert "verified" in run("verify", folder, "--key", VERIFIER_KEY, "--known", kept)
    shorter = make_log(tmp_path / "shorter", 200)
    text = run("verify", shorter, "--key", VERIFIER_KEY, "--known", kept, code=1)
    assert "the log has 200 entries and had 302" in text


def test_a_folder_of_keys_says_who_is_believed(folder, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "2026.vkey").write_text(VERIFIER_KEY)
    new = LogKey(ORIGIN, Ed25519PrivateKey.generate().public_key())
    assert "verified" in run("verify", folder, "--key", keys)
    (keys / "2027.vkey").write_text(str(new))
    assert "verified" in run("verify", folder, "--key", keys)
    assert "verified" in run("verify", folder, "--key", new, "--key", VERIFIER_KEY)
    listed = {name: {"owner": "sre@example.org"} for name in ("2026", "2027")}
    (keys / "keys.json").write_text(json.dumps({"purpose": "checkpoint", "keys": listed, "revoked": ["2026"]}))
    assert "the key `2026`, which is revoked" in run("verify", folder, "--key", keys, code=1)
    (keys / "keys.json").write_text(json.dumps({"purpose": "bundle", "keys": listed}))
    assert "for the purpose `bundle`" in run("verify", folder, "--key", keys, code=2)


def test_a_wrong_call_is_exit_two(folder, tmp_path):
    assert "cannot be read" in run("verify", folder, "--key", tmp_path / "no.vkey", code=2)
    assert "verifier key" in run("verify", folder, "--key", "a+b+c", code=2)
    assert "cannot be read" in run("verify", folder, "--key", VERIFIER_KEY, "--known", tmp_path / "no", code=2)


def test_no_log_is_no(tmp_path):
    assert "broken checkpoint: is missing" in run("verify", tmp_path, "--key", VERIFIER_KEY, code=1)
    assert "cannot be read" in run("tail", tmp_path, code=1)


def test_the_last_records_are_shown(folder):
    text = run("tail", folder, "-n", 3)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["299", "10:00:00", "allow"]
    assert "no-secrets: [red]secrets[/] stay" in lines[2]
    assert lines[3].split()[1:3] == ["session", "git/git_status"]


def test_records_are_lines_of_json_for_machines(folder):
    lines = [json.loads(line) for line in run("tail", folder, "-n", 1000, "--json").splitlines()]
    assert [line["entry"] for line in lines] == list(range(302))
    assert lines[300]["record"]["effect"] == "deny"
    assert run("tail", folder, "-n", 0, "--json") == ""


def test_following_shows_what_comes(folder, monkeypatch):
    log = open_log(folder)
    naps = iter(range(4))

    def nap(_: float) -> None:
        n = next(naps, None)
        if n is None:
            raise KeyboardInterrupt
        if n % 2:
            log.append(records(log.size + 1, 2), NOW)

    monkeypatch.setattr("exequatur.cli.audit.time.sleep", nap)
    lines = [json.loads(line) for line in run("tail", folder, "-n", 1, "-f", "--json").splitlines()]
    assert [line["entry"] for line in lines] == [301, 302, 303, 304, 305]
    log.close()
    assert threading.active_count() < 10
