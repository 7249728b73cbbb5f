"""Keys: readable by their owner alone, never written over, and named as those who verify will read them."""

from __future__ import annotations

import json
import stat

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
    public = read_keys(tmp_path / "public").get("ops")
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
