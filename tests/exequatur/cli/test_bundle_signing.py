"""Signing by several people, by a file or by a command: what is refused, and that nothing is written then."""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur.cli.bundle import app
from exequatur.cli.endorsements import Endorsement
from exequatur.trust import bundle as trusted
from exequatur.trust.archive import write_archive
from exequatur.trust.keys import SigningKey, generate
from pdp.bundle.build import Built, build
from policies import opa
from publisher import built, make, pair, sources
from signing import public_pem, rsa_pem

NOW = ["--sequence", "7", "--expires", "30d"]
CASE = b"- {name: a, agent: assistant, tool: notes/read, arguments: {path: /x}, want: {effect: allow}}"
CEDAR = b'{"document_version": 1, "name": "n", "engines": [{"engine": "cedar", "role": "decide"}]}'
PEOPLE = ("alice", "bob", "ci", "mallory")


@functools.cache
def quick() -> Built:
    """A bundle in Cedar alone, which is built without `opa`."""
    files = sources(decision_rego=None, cases__mail_yaml=None, cases__notes_yaml=CASE, data_json=None)
    return build({**files, "exequatur.json": CEDAR}, None)


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A bundle, four people's keys, and a key set in which two of the first three must sign."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    monkeypatch.setenv("COLUMNS", "120")
    Path("built.tar.gz").write_bytes(quick().archive)
    Path("keys").mkdir()
    for kid in PEOPLE:
        Path(f"{kid}.key").write_bytes(pair(kid)[0])
        if kid != "mallory":
            Path(f"keys/{kid}.pem").write_bytes(pair(kid)[1])
    trust()
    return tmp_path


def trust(**changed: object) -> None:
    owners = {kid: {"owner": f"{kid}@example.org"} for kid in PEOPLE[:3]}
    Path("keys/keys.json").write_text(json.dumps({"purpose": "bundle", "threshold": 2, "keys": owners, **changed}))


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + result.stderr
    return result


def said(*arguments: str, code: int = 1) -> str:
    """Call what must fail, and give its one line; nothing is written."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    line = call(*arguments, code=code).stderr
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return line


def endorse(kid: str = "alice", *more: str) -> str:
    call("endorse", "built.tar.gz", "--key", f"{kid}.key", "-o", f"{kid}.endorsement", *(more or NOW))
    return f"{kid}.endorsement"


def sign(*more: str) -> list[str]:
    return ["sign", "built.tar.gz", "--key", "ci.key", "-o", "signed.tar.gz", *more]


# --- two people


def test_two_owners_sign_and_whoever_verifies_sees_who_they_are():
    endorse("alice")
    endorse("bob", "--endorsement", "alice.endorsement")
    call(*sign("--endorsement", "alice.endorsement", "--endorsement", "bob.endorsement", "--keys", "keys"))
    value = json.loads(call("verify", "signed.tar.gz", "--keys", "keys", "--json").stdout)
    assert value["signed_by"] == [{"kid": kid, "owner": f"{kid}@example.org"} for kid in ("ci", "alice", "bob")]
    assert (value["sequence"], value["threshold"]) == (7, 2)
    text = call("verify", "signed.tar.gz", "--keys", "keys").stdout
    for word in ("alice@example.org (key alice)", "3 signed, 2 needed"):
        assert word in text
    assert "alice@example.org" in call("inspect", "signed.tar.gz", "--keys", "keys").stdout
    assert "alice, bob (not verified" in call("inspect", "signed.tar.gz").stdout


def test_what_the_key_set_would_not_trust_yet_is_not_written():
    line = said(*sign(*NOW, "--keys", "keys"))
    assert "`--keys keys` would not trust it: 1 of the 2 owners needed have signed: ci@example.org" in line
    endorse("mallory")
    assert "no key `mallory`" in said(*sign("--endorsement", "mallory.endorsement", "--keys", "keys"))
    endorse("alice")
    trust(revoked=["alice"])
    assert "`alice` is revoked" in said(*sign("--endorsement", "alice.endorsement", "--keys", "keys"))
    call(*sign(*NOW))  # somebody else's threshold may be one
    assert "1 of the 2 owners" in said("verify", "signed.tar.gz", "--keys", "keys")


def test_an_endorsement_that_counts_for_nothing_is_shown_as_one():
    for kid in ("alice", "mallory"):
        endorse(kid, "--sequence", "7", "--expires", "2090-01-01T00:00:00Z")
    call(*sign("--endorsement", "alice.endorsement", "--endorsement", "mallory.endorsement", "--keys", "keys"))
    value = json.loads(call("verify", "signed.tar.gz", "--keys", "keys", "--json").stdout)
    assert (value["kids"], value["not_counted"]) == (["ci", "alice"], ["mallory"])
    assert "not counted" in call("inspect", "signed.tar.gz", "--keys", "keys").stdout


def test_one_person_with_two_keys_is_one_person():
    trust(keys={kid: {"owner": "ci@example.org" if kid == "alice" else f"{kid}@example.org"} for kid in PEOPLE[:3]})
    endorse("alice")
    assert "1 of the 2 owners" in said(*sign("--endorsement", "alice.endorsement", "--keys", "keys"))


def test_nobody_endorses_what_he_publishes():
    endorse("ci")
    assert "`ci` signed the bundle twice" in said(*sign("--endorsement", "ci.endorsement"))


def test_a_forged_endorsement_is_refused_where_its_key_is_known():
    path = Path(endorse("mallory"))
    header = json.loads(path.read_text())
    Path(endorse("alice"))
    alice = json.loads(Path("alice.endorsement").read_text())["endorsement"]
    header["endorsement"] = alice.partition("..")[0] + ".." + header["endorsement"].partition("..")[2]
    path.write_text(json.dumps(header))
    line = said(*sign("--endorsement", "mallory.endorsement", "--keys", "keys"))
    assert "endorsement by `alice`" in line


# --- an endorsement is for one bundle, under one set of claims


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--sequence", "8"), "endorses sequence 7, not 8"),
        (("--expires", "2090-01-01T00:00:00Z"), "endorses expires_at"),
        (("--tenant", "acme"), "endorses tenant `default`, not `acme`"),
        (("--scope", "prod"), "endorses scope ``, not `prod`"),
        (("--not-before", "1h"), "endorses not_before nothing, not "),
    ],
)
def test_an_endorsement_covers_what_it_says_and_nothing_else(options, why):
    endorse()
    assert why in said(*sign("--endorsement", "alice.endorsement", *options))


def test_an_endorsement_of_other_files_is_refused():
    endorse()
    other = build({**quick().files, "permits.cedar": quick().files["permits.cedar"] + b"// more\n"}, None)
    Path("built.tar.gz").write_bytes(other.archive)
    for arguments in (
        sign("--endorsement", "alice.endorsement"),
        ["endorse", "built.tar.gz", "--key", "bob.key", "--endorsement", "alice.endorsement", "-o", "bob.endorsement"],
    ):
        assert "`alice.endorsement` endorses other files than this bundle's" in said(*arguments)


def test_an_endorsement_whose_words_were_changed_is_refused():
    path = Path(endorse())
    value = json.loads(path.read_text())
    value["claims"]["sequence"] = 8
    path.write_text(json.dumps(value))
    assert "endorses other files" in said(*sign("--endorsement", str(path)))
    # its hash is changed too: whoever has the key sees it
    value["payload_sha256"] = hashlib.sha256(trusted.payload(quick().files, Endorsement.read(path).claims)).hexdigest()
    path.write_text(json.dumps(value))
    assert "endorsement by `alice`" in said(*sign("--endorsement", str(path), "--keys", "keys"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"claims": {}, "endorsement": "", "payload_sha256": ""}',
        b'{"claims": {"sequence": 1, "expires_at": "soon", "tenant": "a"}, "endorsement": "a..b", "payload_sha256": ""}',
        b"\xff" * 100_000,
    ],
)
def test_what_is_no_endorsement_is_called_so(content):
    Path("odd").write_bytes(content)
    assert "`odd` is no endorsement, as `exequatur bundle endorse` writes it: " in said(*sign("--endorsement", "odd"))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sequence": 0}, "hold at no time"),
        ({"sequence": True}, "not of type int"),
        ({"sequence": 1.5}, "not of type int"),
        ({"expires_at": "2090-01-01"}, "no time such as"),
        ({"expires_at": "2090-13-01T00:00:00Z"}, "no time such as"),
        ({"not_before": "2095-01-01T00:00:00Z"}, "hold at no time"),
        ({"tenant": None}, "not of type str"),
        ({"floor": 1}, "`floor` is not known"),
    ],
)
def test_claims_that_could_be_read_in_two_ways_are_refused(claims, why):
    path = Path(endorse("alice", "--sequence", "7", "--expires", "2090-01-01T00:00:00Z"))
    value = json.loads(path.read_text())
    value["claims"] |= claims
    path.write_text(json.dumps(value))
    assert why in said(*sign("--endorsement", str(path)))


def test_what_is_endorsed_is_shown_before_the_key_is_asked(capfd):
    result = call(
        *("endorse", "built.tar.gz", "--command", "false", "--public", "keys/alice.pem", "-o", "a", *NOW), code=64
    )
    for word in ("you endorse", "sequence", "7", "default", "the same; 1 case holds", "permits.cedar", "until 20"):
        assert word in result.stdout
    assert "`false` ended with exit code 1" in result.stderr


def test_what_changed_against_an_older_bundle_is_shown():
    call(*sign(*NOW))
    files = {**quick().files, "permits.cedar": quick().files["permits.cedar"] + b"// more\n", "new.txt": b"n"}
    del files["README.md"]
    Path("built.tar.gz").write_bytes(build(files, None).archive)
    arguments = ["endorse", "built.tar.gz", "--key", "alice.key", "--against", "signed.tar.gz", "-o", "a", *NOW]
    value = json.loads(call(*arguments, "--json").stdout)["against"]
    assert (value["added"], value["changed"], value["removed"]) == (["new.txt"], ["permits.cedar"], ["README.md"])
    text = call(*arguments).stdout
    assert "signed.tar.gz (sequence 7), not verified" in text
    assert "agents.json" not in text


# --- what reviewers read is what runs


def other_rego() -> Built:
    return make(decision_rego=sources()["decision.rego"].replace(b"not our_address", b"not our_address\n\tfalse"))


def other_tools() -> bytes:
    value = json.loads(quick().files["tools.json"])
    value["tools"]["notes/read"]["bulk"] = True
    return json.dumps(value).encode()


ENDORSING = ["endorse", "built.tar.gz", "--key", "alice.key", "-o", "a", *NOW]
VERIFYING = ["verify", "built.tar.gz", "--keys", "keys", "--rebuild"]
SCHEMA = "schema.cedarschema"


@pytest.mark.parametrize(
    ("name", "make_files"),
    [
        ("policy.wasm", lambda: {**built().files, "policy.wasm": other_rego().files["policy.wasm"]}),
        ("policy.wasm", lambda: {**built().files, "decision.rego": other_rego().files["decision.rego"]}),
        (SCHEMA, lambda: {**quick().files, SCHEMA: quick().files[SCHEMA] + b"\n"}),
        (SCHEMA, lambda: {**quick().files, SCHEMA: quick().files[SCHEMA].replace(b"Long", b"String")}),
        (SCHEMA, lambda: {**quick().files, "tools.json": other_tools()}),
    ],
    ids=["module of other Rego", "stale module", "schema with a line more", "schema with another type", "stale schema"],
)
def test_what_is_compiled_and_differs_from_its_sources_is_refused_by_name(name, make_files):
    """By who signs, by who endorses, and by who verifies what somebody signed without looking."""
    files = make_files()
    Path("built.tar.gz").write_bytes(write_archive(files))
    line = f"`{name}` is not what the sources give: one was changed without the other: build the bundle again"
    assert line in said(*sign(*NOW))
    assert line in said(*ENDORSING)
    Path("built.tar.gz").write_bytes(signed_without_looking(files))
    assert line in said(*VERIFYING)


def test_what_an_engine_left_behind_is_refused_by_name():
    """A module of an engine that is not used any more."""
    files = {**quick().files, "policy.wasm": built().files["policy.wasm"]}
    Path("built.tar.gz").write_bytes(write_archive(files))
    for arguments in (sign(*NOW), ENDORSING):
        assert "`policy.wasm` is not what the sources give" in said(*arguments)
    Path("built.tar.gz").write_bytes(signed_without_looking(files))
    assert "`policy.wasm` is not what the sources give" in said(*VERIFYING)


def test_a_module_of_another_opa_is_told_from_one_that_was_swapped(tmp_path, monkeypatch):
    script = f'#!/bin/sh\n[ "$1" = version ] && echo "Version: 1.9.0" && exit\nexec {shlex.quote(opa())} "$@"\n'
    Path("opa").write_text(script)
    Path("opa").chmod(0o755)
    monkeypatch.setenv("EXEQUATUR_OPA", str(tmp_path / "opa"))
    Path("built.tar.gz").write_bytes(write_archive({**built().files, "policy.wasm": b"\0asm"}))
    line = said(*sign(*NOW))
    assert "`policy.wasm` is not what the sources give by `opa` 1.9.0: bundles are built by 1.22.0" in line


def signed_without_looking(files) -> bytes:
    alice, ci = (SigningKey.from_pem(f"{kid}.pem", pair(kid)[0]) for kid in ("alice", "ci"))
    claims = trusted.BundleClaims(7, datetime(2090, 1, 1, tzinfo=UTC))
    return trusted.sign(files, ci, claims, [trusted.endorse(files, alice, claims)])


# --- keys that are elsewhere


@pytest.mark.parametrize(
    ("alg", "options", "digest"),
    [
        ("RS256", "-sha256", False),
        ("PS512", "-sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest", False),
        ("ES256", "-sha256", False),
        ("ES384", "-sha384", False),
        ("ES256", "", True),
    ],
)
def test_a_command_signs_and_endorses(alg, options, digest):
    private = generate(alg)[0] if alg.startswith("ES") else rsa_pem("kms")
    public = public_pem(SigningKey.from_pem(f"kms.{alg}.pem", private))
    name = "kms" if alg in ("RS256", "ES256", "ES384") else f"kms.{alg}"
    Path(f"{name}.key").write_bytes(private)
    Path(f"{name}.pem").write_bytes(public)
    command = f"openssl pkeyutl -sign -inkey {name}.key" if digest else f"openssl dgst {options} -sign {name}.key"
    by_command = ["--command", command, "--public", f"{name}.pem", *(["--digest"] if digest else [])]
    call("endorse", "built.tar.gz", *by_command, "-o", "kms.endorsement", *NOW)
    call("sign", "built.tar.gz", *by_command, "-o", "signed.tar.gz", *NOW)
    Path("keys/keys.json").unlink()
    Path(f"keys/{name}.pem").write_bytes(public)
    value = json.loads(call("verify", "signed.tar.gz", "--keys", "keys", "--json").stdout)
    assert value["signed_by"] == [{"kid": "kms", "owner": "kms"}]
    trust(keys={kid: {"owner": kid} for kid in (*PEOPLE[:3], "kms")})
    call(*sign("--endorsement", "kms.endorsement", "--keys", "keys"))


@pytest.mark.parametrize(
    ("arguments", "why", "code"),
    [
        (("--command", "cat", "--public", "keys/ci.pem"), "printed is no signature of all of its standard input", 64),
        (("--command", "nowhere", "--public", "keys/ci.pem"), "`nowhere` cannot be run", 64),
        (("--command", "sign 'it", "--public", "keys/ci.pem"), "no closing quotation", 64),
        (("--command", " ", "--public", "keys/ci.pem"), "the command is empty", 64),
        (("--command", "true"), "needs `--public KID.pem`", 2),
        (("--command", "true", "--key", "ci.key"), "name who signs", 2),
        ((), "name who signs", 2),
        (("--key", "ci.key", "--public", "keys/ci.pem"), "go with `--command`", 2),
        (("--key", "ci.key", "--digest"), "go with `--command`", 2),
        (("--command", "true", "--public", "ci.key"), "holds a private key", 1),
        (("--command", "true", "--public", "nowhere.pem"), "no such file", 2),
    ],
)
def test_a_signer_that_cannot_sign_is_told_in_one_line(arguments, why, code):
    assert why in said("sign", "built.tar.gz", *arguments, "-o", "signed.tar.gz", *NOW, code=code)


def test_another_key_than_the_public_one_that_was_named_signs_nothing():
    line = said(
        *("sign", "built.tar.gz", "--command", "openssl dgst -sha256 -sign mallory.key", "--public", "keys/ci.pem"),
        *("-o", "signed.tar.gz", *NOW),
        code=64,
    )
    assert "is no signature of all of its standard input by key `ci`" in line


def test_a_key_is_called_as_its_file_or_as_one_says():
    for options, kid in (((), "ci"), (("--kid", "robot"), "robot")):
        assert json.loads(call(*sign(*NOW, *options, "--json")).stdout)["kid"] == kid
    assert "`--sequence` and `--expires` are needed" in said(*sign(), code=2)


def test_a_scope_is_signed_for_keys_that_have_one():
    keys = {"ci": {"owner": "ci", "scope": "prod"}, "bob": {"owner": "bob", "scope": "prod"}, "alice": {"owner": "a"}}
    trust(keys=keys)
    endorse("bob", *NOW, "--scope", "prod")
    call(*sign("--endorsement", "bob.endorsement", "--keys", "keys"))
    endorse("alice", *NOW)
    assert "for scope" in said(*sign("--endorsement", "alice.endorsement", "--keys", "keys"))
