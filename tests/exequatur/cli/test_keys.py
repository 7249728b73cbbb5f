"""Keys: readable by their owner alone, never written over, and named as those who verify will read them."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur.cli.keys import app
from exequatur.trust.keys import SigningKey, load_log_key
from exequatur.trust.note import Checkpoint, LogKey, open_checkpoint, sign_checkpoint
from exequatur.trust.tokens import write_token
from pdp.bundle.source import read_keys


def generate(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output if code == 0 else result.stderr


@pytest.mark.parametrize("alg", ["RS256", "PS384", "ES256", "ES512"])
def test_what_one_half_signs_the_other_verifies(tmp_path, alg):
    value = json.loads(generate("--out", tmp_path, "--kid", "ops", "--alg", alg, "--json"))
    private = tmp_path / value["private"].rpartition("/")[2]
    key = SigningKey.from_pem(private.name.replace(".key", ".pem"), private.read_bytes())
    public = read_keys(tmp_path / "public").keys["ops"]
    assert (key.kid, key.alg, public.alg) == ("ops", alg, alg)
    assert public.verify(write_token(key, b"payload")) == b"payload"


def test_the_private_half_is_for_its_owner_alone(tmp_path):
    generate("--out", tmp_path, "--kid", "ops", "--alg", "ES256")
    assert stat.S_IMODE((tmp_path / "ops.key").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "public" / "ops.pem").read_bytes()


def test_a_key_is_never_written_over(tmp_path):
    generate("--out", tmp_path, "--kid", "ops", "--alg", "ES256")
    before = (tmp_path / "ops.key").read_bytes()
    assert "never written over" in generate("--out", tmp_path, "--kid", "ops", "--alg", "ES256", code=1)
    assert (tmp_path / "ops.key").read_bytes() == before


def test_no_private_half_is_left_where_the_public_one_is_taken(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "ops.pem").write_text("somebody's")
    assert "never written over" in generate("--out", tmp_path, "--kid", "ops", "--alg", "ES256", code=1)
    assert not (tmp_path / "ops.key").exists()


def test_the_ledgers_key_signs_checkpoints_under_its_origin(tmp_path):
    generate("--out", tmp_path, "--kid", "log", "--alg", "Ed25519", "--origin", "example.com/log")
    note = sign_checkpoint(
        Checkpoint("example.com/log", 0, bytes(32)),
        "example.com/log",
        load_log_key((tmp_path / "log.key").read_bytes()),
    )
    verifier = LogKey.parse((tmp_path / "log.vkey").read_text())
    assert open_checkpoint(note, (verifier,), "example.com/log").size == 0
    assert not (tmp_path / "public").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--kid", "../x"), "is not a KID"),
        (("--kid", ""), "is not a KID"),
        (("--kid", "ops.PS256"), "ends in the name of an algorithm"),
        (("--kid", "ops", "--alg", "HS256"), "`HS256` is not an algorithm"),
        (("--kid", "ops", "--alg", "ES256", "--origin", "a"), "`--origin` is for Ed25519"),
        (("--kid", "log", "--alg", "Ed25519", "--origin", "a b"), "verifier key"),
    ],
)
def test_a_wrong_call_writes_nothing(tmp_path, arguments, why):
    assert why in generate("--out", tmp_path / "keys", *arguments, code=2)
    assert not (tmp_path / "keys").exists()


# --- show


def show(folder: Path, *more: str, code: int = 0):
    result = CliRunner().invoke(app, ["show", str(folder), *more])
    assert result.exit_code == code, result.output + result.stderr
    return json.loads(result.stdout) if code == 0 and "--json" in more else result.stderr if code else result.stdout


@pytest.fixture
def people(tmp_path):
    """Keys of three people, one of whom has two: one revoked, one over."""
    for kid in ("alice", "bob", "old", "ci"):
        generate("--out", tmp_path, "--kid", kid, "--alg", "ES256")
    folder = tmp_path / "public"
    keys = {
        "alice": {"owner": "alice@example.org", "not_after": "2090-01-01T00:00:00Z", "tenants": ["acme"]},
        "bob": {"owner": "bob@example.org", "not_after": "2020-01-01T00:00:00Z"},
        "old": {"owner": "alice@example.org"},
        "ci": {"owner": "ci@example.org", "scope": "prod"},
    }
    policy = {"purpose": "bundle", "threshold": 2, "keys": keys, "revoked": ["old", "lost"]}
    (folder / "keys.json").write_text(json.dumps(policy))
    return folder


def test_a_folder_of_keys_is_shown_as_whoever_verifies_reads_it(people):
    value = show(people, "--json")
    rows = {row["kid"]: row for row in value["keys"]}
    assert (value["purpose"], value["threshold"]) == ("bundle", 2)
    assert value["owners"] == ["alice@example.org", "ci@example.org"], "who can sign now"
    assert {kid for kid, row in rows.items() if row["revoked"]} == {"old", "lost"}
    assert {kid for kid, row in rows.items() if row["expired"]} == {"bob"}
    assert (rows["alice"]["tenants"], rows["ci"]["scope"]) == (["acme"], "prod")
    assert rows["lost"]["fingerprint"] is None
    text = " ".join(show(people).split())  # a long path wraps the line
    for word in (
        "2 of 2 owners who can sign now",
        "revoked",
        "over since 2020",
        "until 2090",
        rows["old"]["fingerprint"],
    ):
        assert word in text


def test_a_fingerprint_is_what_other_tools_say(people):
    command = ["openssl", "pkey", "-pubin", "-in", str(people / "alice.pem"), "-outform", "DER"]
    der = subprocess.run(command, capture_output=True, check=True).stdout
    (row,) = (row for row in show(people, "--json")["keys"] if row["kid"] == "alice")
    assert row["fingerprint"] == hashlib.sha256(der).hexdigest()


def test_a_folder_that_nobody_could_use_is_a_no(people, tmp_path):
    assert "for the purpose `bundle`, not for `permit`" in show(people, "--purpose", "permit", code=1)
    (people / "extra.pem").write_bytes((people / "ci.pem").read_bytes())
    assert "`extra`" in show(people, code=1)
    (people / "extra.pem").unlink()
    (people / "keys.json").unlink()
    assert "any key is enough" in show(people)
    assert f"did you mean `{people}`" in show(tmp_path, code=1)
    assert "it is not there" in show(tmp_path / "nowhere", code=2)
    assert "must be one of `bundle`, `permit`, `checkpoint`" in show(people, "--purpose", "cooking", code=2)


def test_a_ledgers_keys_are_shown_too(tmp_path):
    for kid in ("log", "log-2"):
        generate("--out", tmp_path, "--kid", kid, "--alg", "Ed25519", "--origin", "example.com/log")
        (tmp_path / f"{kid}.key").unlink()
    value = show(tmp_path, "--json")
    assert (value["purpose"], value["owners"]) == ("checkpoint", ["example.com/log"])
    keys = {kid: {"owner": "ops@example.org"} for kid in ("log", "log-2")}
    (tmp_path / "keys.json").write_text(json.dumps({"purpose": "checkpoint", "keys": keys, "revoked": ["log"]}))
    assert [row["revoked"] for row in show(tmp_path, "--purpose", "checkpoint", "--json")["keys"]] == [True, False]
    assert "not for `bundle`" in show(tmp_path, "--purpose", "bundle", code=1)


def test_a_purpose_that_must_be_said_is_said(tmp_path):
    generate("--out", tmp_path, "--kid", "pdp", "--alg", "ES256")
    assert "permit" in show(tmp_path / "public", "--purpose", "permit", code=1)
    policy = {"purpose": "permit", "keys": {"pdp": {"owner": "pdp"}}}
    (tmp_path / "public" / "keys.json").write_text(json.dumps(policy))
    assert show(tmp_path / "public", "--json")["purpose"] == "permit"
