"""From a folder to a bundle: the same bytes each time, nothing that could not be served, and errors with a place."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from exequatur.trust.archive import read_tar, unpack
from pdp.bundle import build as building
from pdp.bundle.build import OpaError, build, check_built, compile_rego, find_opa, read_folder
from pdp.engine.reading import PolicyError
from policies import opa
from publisher import KID, STARTER, built, make, pair, publish, sources


def refusal(**changed: bytes | None) -> str:
    with pytest.raises(PolicyError) as caught:
        make(**changed)
    return str(caught.value)


def test_the_starter_builds_and_its_cases_hold():
    assert built().results.total >= 10
    assert built().results.failures == ()


def test_two_folders_give_the_same_bytes(tmp_path):
    archives = []
    for name in ("one", "another/with/a/longer/path"):
        folder = tmp_path / name
        for file, content in reversed(sources().items()):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (len(name), len(name)))
        archives.append(build(read_folder(folder), Path(opa())).archive)
    assert archives[0] == archives[1]


def test_building_what_was_built_changes_nothing():
    assert build(built().files, Path(opa())).archive == built().archive


def test_the_archive_holds_the_sources_and_what_was_made_of_them():
    files = read_tar(unpack(built().archive))
    assert files.keys() - sources().keys() == {".manifest", "policy.wasm", "schema.cedarschema"}
    assert {name: files[name] for name in sources()} == sources()
    manifest = json.loads(files[".manifest"])
    assert manifest["roots"] == [""]
    assert "wasm" not in manifest


def test_what_is_generated_is_never_taken_from_the_sources():
    forged = {"policy.wasm": b"\0asm forged", "schema.cedarschema": b"forged", ".signatures.json": b"{}"}
    assert build({**sources(), **forged}, Path(opa())).files == built().files


def test_the_authors_manifest_is_kept_without_its_wasm_key():
    mine = b'{"revision": "r7", "wasm": [{"entrypoint": "a/b", "module": "/policy.wasm"}], "metadata": {"a": 1}}'
    files = build({**sources(), ".manifest": mine}, Path(opa())).files
    assert json.loads(files[".manifest"]) == {"revision": "r7", "metadata": {"a": 1}, "roots": [""], "rego_version": 1}


def test_opa_itself_verifies_and_loads_the_bundle(tmp_path):
    (tmp_path / "signed.tar.gz").write_bytes(publish())
    (tmp_path / "key.pem").write_bytes(pair(KID)[1])
    command = [opa(), "build", "-b", "signed.tar.gz", "--verification-key", "key.pem", "--signing-alg", "ES256"]
    command += ["--verification-key-id", KID, "-o", "out.tar.gz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "plain.tar.gz").write_bytes(built().archive)
    command = [opa(), "eval", "-b", "plain.tar.gz", "-f", "raw", "data.mail.domains"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["example.com", "example.org"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"decision_rego": b"package exequatur\n\na if {\n"}, "`decision.rego:4`: "),
        (
            {"decision_rego": b"package exequatur\n\ndecision := foo.bar(1)\n"},
            "`decision.rego:3`: undefined function foo.bar",
        ),
        ({"decision_rego": b"package exequatur\n\nother := 1\n"}, "entrypoint"),
        ({"decision_rego": None}, "no `*.rego` file"),
        (
            {"restrictions_cedar": b'@id("a")\nforbid (principal, action, resource);\n\n@id("b") forbid (\n'},
            "`restrictions.cedar:4`",
        ),
        (
            {"restrictions_cedar": b'forbid (principal, action == Action::"notes/raed", resource);'},
            "`restrictions.cedar:1`",
        ),
        (
            {
                "restrictions_cedar": b'forbid (principal, action == Action::"notes/read", resource) when { context.input.pth == "" };'
            },
            "`restrictions.cedar:1`",
        ),
        ({"permits_cedar": None}, "no Cedar policy permits anything"),
        ({"tools_json": b'{"tools": {"a/b": {}}}'}, "`tools.json:1`: `/tools/a~1b/definition` is missing"),
        ({"tools_json": None}, "`tools.json` is missing"),
        ({"agents_json": b'{"agents": {}, "agents": {}}'}, "`agents.json`"),
        ({"exequatur_json": None}, "`exequatur.json` is missing"),
        ({"exequatur_json": b'{"document_version": 1, "name": "n", "engines": []}'}, "`exequatur.json:1`"),
        ({"data_json": b'{"a": 1} // why'}, "`data.json`"),
        ({"more__data_json": b"{}"}, "`more/data.json`: data belongs in one"),
        ({"data_yaml": b"a: 1"}, "`data.yaml`"),
        (
            {"limits_json": b'{"max_stepps": 1}'},
            "`limits.json:1`: `/max_stepps` is not known: did you mean `max_steps`?",
        ),
        ({"cases__notes_yaml": None, "cases__mail_yaml": None}, "no case in `cases/*.yaml`"),
        ({"cases__notes_yaml": b"- name: a\n- name: b"}, "`cases/notes.yaml:1`"),
        ({"a name_txt": b""}, "`a name.txt` is not a name that is taken"),
        ({"x" * 190 + "_txt": b""}, "too long a name"),
    ],
)
def test_what_could_not_be_served_is_not_built(changed, why):
    assert why in refusal(**changed)


def test_rego_that_calls_out_is_refused_by_name_with_the_way_out():
    rego = b'package exequatur\n\ndecision := {"deny": {x | x := http.send({"method": "get", "url": input.input.u}).body}}\n'
    assert "`http.send`" in refusal(decision_rego=rego)


def test_a_bundle_in_cedar_alone_needs_no_opa():
    files = sources(decision_rego=None, cases__mail_yaml=None, cases__notes_yaml=None, data_json=None)
    files["exequatur.json"] = (
        b'{"document_version": 1, "name": "n", "engines": [{"engine": "cedar", "role": "decide"}]}'
    )
    files["cases/a.yaml"] = (
        b"- {name: a, agent: assistant, tool: notes/read, arguments: {path: /x}, want: {effect: allow}}"
    )
    done = build(files, None)
    assert done.results.failures == ()
    assert "policy.wasm" not in done.files


def test_a_failing_case_is_told_with_file_line_wanted_and_got():
    wrong = b"# one\n- {name: odd, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, want: {effect: deny, policies: [x]}}"
    (failure,) = make(cases__notes_yaml=wrong).results.failures
    assert str(failure).startswith(
        "`cases/notes.yaml:2`: case `odd`: wanted deny (`x`), got allow (permitted by `office.reads`"
    )


def test_reviewed_sources_are_what_runs():
    assert check_built(built().files, Path(opa())).failures == ()
    other = make(decision_rego=sources()["decision.rego"].replace(b"not our_address", b"not our_address\n\tfalse"))
    swapped = {**built().files, "policy.wasm": other.files["policy.wasm"]}
    with pytest.raises(PolicyError, match=r"`policy.wasm` is not what the sources give"):
        check_built(swapped, Path(opa()))
    with pytest.raises(PolicyError, match=r"`schema.cedarschema` is not what the sources give"):
        check_built({**built().files, "schema.cedarschema": b""}, Path(opa()))


def test_sources_are_files_and_not_what_hides_beside_them(tmp_path):
    for name in (".git/config", ".env", "a.cedar", "sub/.hidden", "sub/b.cedar", ".manifest"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(read_folder(tmp_path)) == [".manifest", "a.cedar", "sub/b.cedar"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "a.cedar").symlink_to("/etc/passwd")
    with pytest.raises(PolicyError, match=r"`a.cedar` is a link"):
        read_folder(tmp_path)


def test_an_empty_folder_says_how_to_begin(tmp_path):
    with pytest.raises(PolicyError, match="exequatur bundle init"):
        read_folder(tmp_path)


def fake_opa(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\necho 'Version: {version}'\n")
    path.chmod(0o755)
    return path


def test_opa_is_found_by_name_then_on_the_path_then_in_the_cache(tmp_path):
    cache = tmp_path / "home/.cache/exequatur/bin"
    cache.mkdir(parents=True)
    (tmp_path / "path").mkdir()
    named = fake_opa(tmp_path / "mine", "1.5.0")
    on_path = fake_opa(tmp_path / "path/opa", "1.6.0")
    fake_opa(cache / "opa-1.9.0", "1.9.0")
    newest = fake_opa(cache / "opa-1.22.0", "1.22.0")
    environ = {"HOME": str(tmp_path / "home")}
    assert find_opa(environ) == newest
    assert find_opa({**environ, "PATH": str(tmp_path / "path")}) == on_path
    assert find_opa({**environ, "PATH": str(tmp_path / "path"), "EXEQUATUR_OPA": str(named)}) == named
    assert find_opa({"HOME": str(tmp_path), "PATH": ""}) is None


def test_without_opa_the_way_to_it_is_named():
    with pytest.raises(OpaError, match=r"go install github.com/open-policy-agent/opa@v"):
        build(sources(), None)


@pytest.mark.parametrize(
    ("version", "why"), [("0.70.0", "1.0 or newer is needed"), ("nonsense", "does not say its version")]
)
def test_another_opa_is_not_used(tmp_path, version, why):
    with pytest.raises(OpaError, match=why):
        find_opa({"EXEQUATUR_OPA": str(fake_opa(tmp_path / "opa", version))})


def test_an_opa_that_is_named_must_be_there_and_run(tmp_path):
    with pytest.raises(OpaError, match="is not there"):
        find_opa({"EXEQUATUR_OPA": str(tmp_path / "opa")})
    (tmp_path / "opa").write_bytes(b"no program")
    with pytest.raises(OpaError, match="does not run"):
        find_opa({"EXEQUATUR_OPA": str(tmp_path / "opa")})


def test_an_opa_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "opa"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(building, "OPA_SECONDS", 0.2)
    with pytest.raises(OpaError, match=r"did not end within 0.2 s"):
        compile_rego(sources(), "exequatur/decision", slow)


def test_the_starter_travels_whole():
    assert {path.name for path in STARTER.iterdir()} >= {"exequatur.json", "tools.json", "README.md", "cases"}
