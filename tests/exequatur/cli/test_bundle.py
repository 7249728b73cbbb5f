"""`exequatur bundle` as people and scripts call it: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur.cli.bundle import app
from exequatur.trust.archive import read_tar, unpack, write_archive
from exequatur.trust.bundle import SIGNATURES
from exequatur.trust.keys import generate
from policies import opa
from publisher import KID, NOW, built, pair, publish


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """A folder with the starter built, and the keys of who signs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    monkeypatch.setenv("COLUMNS", "200")
    Path("built.tar.gz").write_bytes(built().archive)
    Path("public").mkdir()
    Path(f"public/{KID}.pem").write_bytes(pair(KID)[1])
    Path(f"{KID}.key").write_bytes(pair(KID)[0])
    return tmp_path


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + result.stderr
    return result


def said(*arguments: str, code: int) -> str:
    """Call what must fail, and give its one line."""
    line = call(*arguments, code=code).stderr
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def sign(*more: str, out: str = "signed.tar.gz", code: int = 0):
    usual = {"--key": f"{KID}.key", "--kid": KID, "--sequence": "1", "--expires": "30d", "-o": out}
    usual |= dict(zip(more[::2], more[1::2], strict=True))
    arguments = ["sign", usual.pop("bundle", "built.tar.gz"), *(word for pair in usual.items() for word in pair)]
    return said(*arguments, code=code) if code else json.loads(call(*arguments, "--json").stdout)


def test_from_nothing_to_a_bundle_that_is_trusted():
    assert "bundle build mine" in call("init", "mine").stdout
    assert "10 cases hold" in call("build", "mine", "-o", "mine.tar.gz").stdout
    sign("bundle", "mine.tar.gz")
    assert "is trusted" in call("verify", "signed.tar.gz", "--keys", "public").stdout
    assert call("verify", "signed.tar.gz", "--keys", "public", "--rebuild").stdout


def test_init_writes_over_nothing():
    Path("mine").mkdir()
    call("init", "mine")
    readme = Path("mine/README.md").read_text()
    assert "not empty" in said("init", "mine", code=1)
    assert Path("mine/README.md").read_text() == readme
    assert "not empty" in said("init", "built.tar.gz", code=1)


def test_two_builds_are_the_same_bytes():
    call("init", "one")
    call("init", "two")
    for name in ("one", "two"):
        call("build", name, "-o", f"{name}.tar.gz")
    assert Path("one.tar.gz").read_bytes() == Path("two.tar.gz").read_bytes() == built().archive


def test_a_failed_case_is_shown_and_nothing_is_written():
    call("init", "mine")
    Path("mine/cases/mine.yaml").write_text(
        "- {name: odd, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, want: {effect: deny}}"
    )
    result = call("build", "mine", "-o", "out.tar.gz", code=1)
    for word in ("odd", "cases/mine.yaml:1", "deny", "office.reads"):
        assert word in result.stdout
    assert result.stderr == "error: 1 of 11 cases failed, and nothing was written\n"
    assert not Path("out.tar.gz").exists()
    value = json.loads(call("build", "mine", "-o", "out.tar.gz", "--json", code=1).stdout)
    assert not value["built"]
    assert value["failures"][0]["where"] == "cases/mine.yaml:1"


def test_a_fault_names_its_place_and_keeps_what_was_there():
    call("init", "mine")
    Path("out.tar.gz").write_text("before")
    Path("mine/permits.cedar").write_text("permit (principal, action, resource)")
    assert "`permits.cedar:1`" in said("build", "mine", "-o", "out.tar.gz", code=1)
    assert Path("out.tar.gz").read_text() == "before"
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_a_missing_opa_is_told_with_the_way_to_it(monkeypatch):
    call("init", "mine")
    monkeypatch.delenv("EXEQUATUR_OPA")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert "go install github.com/open-policy-agent/opa@v" in said("build", "mine", "-o", "out.tar.gz", code=64)


def test_wrong_calls_are_exit_code_2():
    assert "it is not there" in said("build", "nowhere", "-o", "out.tar.gz", code=2)
    assert "`nowhere`: it is not there" in said("inspect", "nowhere", code=2)
    assert "`.`: it is a folder" in said("inspect", ".", code=2)
    call("init", "mine")
    assert "`nowhere/out.tar.gz`: cannot be written: no such file" in said(
        "build", "mine", "-o", "nowhere/out.tar.gz", code=2
    )
    for arguments in (("--sequence", "0"), ("--sequence", "x")):
        usual = ["sign", "built.tar.gz", "--key", "k", "--kid", "k", "--expires", "1d", "-o", "o", *arguments]
        assert CliRunner().invoke(app, usual).exit_code == 2
    for expires in ("30", "yesterday", "2030-01-01", "2030-01-01T00:00:00", "-1d", "0d"):
        assert "`--expires` must be" in sign("--expires", expires, code=2)
    assert "would never be valid" in sign("--expires", "2020-01-01T00:00:00Z", code=2)
    assert "would never be valid" in sign("--expires", "1d", "--not-before", "2d", code=2)
    assert "no such file" in sign("--key", "nowhere.key", code=2)
    Path("folder").mkdir()
    Path("folder/ops.key").write_text("nothing")
    assert "`--key folder` is a folder: name the key file, such as `folder/ops.key`" in sign("--key", "folder", code=2)
    assert "`--key folder/ops.key`: `ops.pem` holds no private key" in sign("--key", "folder/ops.key", code=1)
    assert not Path("signed.tar.gz").exists()


def test_what_was_signed_says_so():
    value = sign("--sequence", "7", "--not-before", "1h", "--tenant", "acme", "--expires", "2090-01-01T01:00:00+01:00")
    assert (value["sequence"], value["tenant"], value["kid"]) == (7, "acme", KID)
    assert value["expires_at"] == "2090-01-01T00:00:00Z"
    soon = datetime.fromisoformat(value["not_before"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < soon < timedelta(minutes=61)


def test_signing_again_replaces_the_signature():
    sign()
    value = sign("bundle", "signed.tar.gz", "--sequence", "2", out="again.tar.gz")
    assert value["sequence"] == 2
    call("verify", "again.tar.gz", "--keys", "public")


def test_what_is_not_what_its_sources_say_is_not_signed():
    Path("built.tar.gz").write_bytes(write_archive({**built().files, "policy.wasm": b"\0asm"}))
    assert "`policy.wasm` is not what the sources give" in sign(code=1)
    assert not Path("signed.tar.gz").exists()


@pytest.mark.parametrize(("name", "alg"), [("rsa.key", "RS256"), ("rsa.PS384.key", "PS384")])
def test_the_keys_file_says_its_algorithm(name, alg):
    private, public = generate(alg)
    Path(name).write_bytes(private)
    Path("public", name.replace(".key", ".pem")).write_bytes(public)
    sign("--key", name, "--kid", "rsa")
    assert json.loads(call("verify", "signed.tar.gz", "--keys", "public", "--json").stdout)["kid"] == "rsa"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: publish(expires_at=NOW - timedelta(days=9)), "expired at"),
        (
            lambda: publish(not_before=datetime(2090, 1, 1, tzinfo=UTC), expires_at=datetime(2091, 1, 1, tzinfo=UTC)),
            "not valid before",
        ),
        (lambda: publish(tenant="acme", expires_at=datetime(2090, 1, 1, tzinfo=UTC)), "tenant `acme`"),
        (lambda: publish(kid="thief"), "no key `thief`"),
        (lambda: built().archive, "not signed"),
        (lambda: publish()[:-100], "cut short"),
        (lambda: b"nonsense", "tar"),
    ],
)
def test_verify_says_exactly_what_is_wrong(make, why):
    Path("bad.tar.gz").write_bytes(make())
    assert why in said("verify", "bad.tar.gz", "--keys", "public", code=1)
    result = call("verify", "bad.tar.gz", "--keys", "public", "--json", code=1)
    assert json.loads(result.stdout)["trusted"] is False
    assert why in json.loads(result.stdout)["error"]


def test_a_flipped_byte_is_found_in_the_file_that_it_is_in():
    data = publish(expires_at=datetime(2090, 1, 1, tzinfo=UTC))
    files = read_tar(unpack(data))
    for name in sorted(files.keys() - {SIGNATURES}):
        flipped = bytearray(files[name])
        flipped[len(flipped) // 2] ^= 1
        Path("bad.tar.gz").write_bytes(write_archive({**files, name: bytes(flipped)}))
        assert f"`{name}`" in said("verify", "bad.tar.gz", "--keys", "public", code=1)


def test_keys_that_cannot_be_read_say_nothing_about_the_bundle():
    Path("signed.tar.gz").write_bytes(publish())
    for keys, why in (("nowhere", "no such file"), (".", "")):
        for verb in ("verify", "inspect"):
            line = said(verb, "signed.tar.gz", "--keys", keys, code=64)
            assert line.startswith(f"error: `--keys {keys}`: ")
            assert why in line


def test_the_folder_of_private_keys_is_not_the_one_that_is_meant():
    Path("signed.tar.gz").write_bytes(publish())
    assert "did you mean `public`" in said("verify", "signed.tar.gz", "--keys", ".", code=64)


def test_inspect_shows_what_is_inside():
    Path("signed.tar.gz").write_bytes(publish(7, expires_at=datetime(2090, 1, 1, tzinfo=UTC)))
    text = call("inspect", "signed.tar.gz").stdout
    for word in (
        "not verified",
        "starter",
        "cedar (decides)",
        "notes/write",
        "assistant",
        "office.works",
        "2090-01-01",
    ):
        assert word in text
    value = json.loads(call("inspect", "signed.tar.gz", "--keys", "public", "--json").stdout)
    assert value["verified"]
    assert (value["sequence"], value["cases"], value["rego_files"]) == (7, 10, 1)
    assert {tool["name"] for tool in value["tools"]} == {"notes/read", "notes/write", "mail/send"}
    assert {file["name"] for file in value["files"]} == built().files.keys()
    effects = {policy["id"]: policy["effect"] for policy in value["policies"]}
    assert effects["office.reads"] == "permit"
    assert effects["mail.untrusted"] == "require_approval"


def test_inspect_calls_what_is_not_signed_so():
    assert "not signed" in call("inspect", "built.tar.gz").stdout
    assert json.loads(call("inspect", "built.tar.gz", "--json").stdout)["verified"] is False
    assert "not signed" in said("inspect", "built.tar.gz", "--keys", "public", code=1)


@pytest.mark.parametrize(
    "signatures",
    [
        b"{}",
        b"[]",
        b"no",
        b'{"signatures": []}',
        b'{"signatures": ["a"]}',
        b'{"signatures": ["a.b.c"]}',
        b'{"signatures": [7]}',
    ],
)
def test_inspect_outlives_any_signature(signatures):
    Path("odd.tar.gz").write_bytes(write_archive({**built().files, SIGNATURES: signatures}))
    assert json.loads(call("inspect", "odd.tar.gz", "--json").stdout)["verified"] is False


def test_names_from_a_bundle_are_never_taken_for_colours():
    call("init", "mine")
    text = Path("mine/permits.cedar").read_text().replace("may read notes", "may [bold red]read[/] [notes]")
    Path("mine/permits.cedar").write_text(text)
    call("build", "mine", "-o", "out.tar.gz")
    assert "may [bold red]read[/] [notes]" in call("inspect", "out.tar.gz").stdout


def test_the_group_loads_no_engine_before_a_verb_runs():
    script = "import sys, exequatur.cli.bundle\nprint(sorted({'cedarpy', 'wasmtime', 'grpc'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
