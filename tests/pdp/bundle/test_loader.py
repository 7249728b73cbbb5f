"""A bundle is proved in a child: whatever it does there, the parent lives, serves on, and says why."""

from __future__ import annotations

import gc
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from exequatur.trust.archive import write_archive
from exequatur.trust.bundle import Floor
from pdp.bundle import loader, proving
from pdp.bundle.build import compile_rego
from pdp.bundle.loader import load
from pdp.bundle.proving import BundleRejected, NotProved, ProofLimits, Proven, keep, prove
from policies import opa
from publisher import NOW, built, keys, publish, sources


def refusal(data: bytes, limits: ProofLimits = proving.PROOF_LIMITS, **options) -> str:
    with pytest.raises(BundleRejected) as caught:
        prove(data, options.pop("ring", keys()), now=NOW, limits=limits, **options)
    return str(caught.value)


def in_cedar(**changes: bytes | None) -> dict[str, bytes]:
    """Give the starter without its Rego, which takes a child longer than all else, or what becomes of it by these."""
    usual = {
        "exequatur_json": b'{"document_version": 1, "name": "n", "engines": [{"engine": "cedar", "role": "decide"}]}',
        "cases__notes_yaml": b"- {name: a, agent: assistant, tool: notes/read, arguments: {path: /x}, want: {effect: allow}}",
    }
    return sources(**{"decision_rego": None, "cases__mail_yaml": None, **usual, **changes})


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Let the child be a script of the test's own."""

    def become(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return become


@pytest.fixture(scope="module")
def proven() -> Proven:
    """The starter with its Rego, proved."""
    data = publish(7)
    made = prove(data, keys(), now=NOW)
    assert made.data == data
    return made


def test_a_good_bundle_is_proved_kept_and_loaded(proven, tmp_path):
    assert (proven.sequence, proven.cases) == (7, built().results.total)
    kept = keep(proven, tmp_path / "serving")
    assert kept.bundle.read_bytes() == proven.data
    assert kept.module is not None
    for path in (kept.bundle, kept.module):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    snapshot = load(kept.bundle, keys(), now=NOW, wasm_module=kept.module.read_bytes())
    assert (snapshot.digest, snapshot.sequence, snapshot.signed) == (proven.digest, 7, True)
    assert sorted(path.name for path in (tmp_path / "serving").iterdir()) == sorted(
        [kept.bundle.name, kept.module.name]
    )


def test_a_bundle_without_rego_has_no_module(tmp_path):
    proven = prove(publish(files=in_cedar()), keys(), now=NOW)
    assert proven.wasm_module is None
    kept = keep(proven, tmp_path)
    assert kept.module is None
    assert load(kept.bundle, keys(), now=NOW).sequence == 1


@pytest.mark.parametrize(
    ("data", "options", "why"),
    [
        (lambda: built().archive, {}, "not signed"),
        (lambda: publish(kid="thief"), {}, "no key `thief`"),
        (lambda: publish(expires_at=NOW), {}, "expired"),
        (lambda: publish(not_before=NOW + timedelta(1)), {}, "not valid before"),
        (lambda: publish(tenant="acme"), {}, "tenant `acme`"),
        (lambda: publish(3), {"floor": Floor(4, bytes(32))}, "sequence 3 after 4"),
        (lambda: publish(3), {"floor": Floor(3, bytes(32))}, "other content"),
        (lambda: publish()[:-100], {}, "cut short"),
        (lambda: b"nonsense", {}, "tar"),
        (lambda: b"", {}, "tar"),
    ],
)
def test_what_does_not_verify_never_reaches_a_child(data, options, why, child):
    child("raise SystemExit('the child was asked')")
    text = refusal(data(), **options)
    assert why in text
    assert "process" not in text


def test_a_failing_case_refuses_the_bundle():
    wrong = b"- {name: odd, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, want: {effect: deny}}"
    text = refusal(publish(files=in_cedar(cases__notes_yaml=wrong)))
    assert text.startswith("1 of 1 cases failed: `cases/notes.yaml:1`: case `odd`: wanted deny, got allow")


def test_a_bundle_without_cases_proves_nothing():
    assert "no case in" in refusal(publish(files=in_cedar(cases__notes_yaml=None)))


def test_policy_that_cannot_be_read_names_its_place():
    assert "`permits.cedar:1`" in refusal(publish(files=in_cedar(permits_cedar=b"permit (oops")))
    assert "`policy.wasm`" in refusal(publish(files={**built().files, "policy.wasm": b"\0asm no"}))


def test_rego_that_loops_in_each_case_is_stopped_by_fuel_and_then_fails_its_case():
    loop = b'package exequatur\n\ndecision := {"deny": {"x" | count([n | some n in numbers.range(1, 10000000)]) < 0}}\n'
    module = compile_rego({**built().files, "decision.rego": loop}, "exequatur/decision", Path(opa()))
    case = b"- {name: n, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, want: {effect: allow}}"
    files = {
        **built().files,
        "decision.rego": loop,
        "policy.wasm": module,
        "cases/notes.yaml": case,
        "cases/mail.yaml": b"[]",
    }
    assert "got deny (error by `exequatur/decision`" in refusal(publish(files=files))


def test_a_native_crash_is_told_by_its_signal(child):
    child("os.kill(os.getpid(), 11)")
    assert refusal(publish()) == "the bundle killed the process that proved it (signal 11)"


def test_a_machine_that_kills_the_proof_says_nothing_about_the_bundle(child):
    """The kernel does so when memory runs out: were the bundle refused for good, the old one would stay."""
    child("os.kill(os.getpid(), 9)")
    with pytest.raises(NotProved, match="was killed by somebody else"):
        prove(publish(), keys(), now=NOW)


def test_a_bundle_that_hangs_is_not_waited_for(child):
    child("time.sleep(60)")
    begun = time.monotonic()
    assert refusal(publish(), ProofLimits(wall_s=0.5)) == "it was not proved within 0.5 s"
    assert time.monotonic() - begun < 10


def test_processor_time_is_bounded():
    text = refusal(publish(), ProofLimits(cpu_s=0))
    assert text == "it used more than 0 s of processor time to be proved"


def test_memory_files_and_precedence_are_bounded(tmp_path):
    """The limits of the real child, with what a policy could make a native library do."""
    script = (
        "import errno, os, sys\nfrom pdp.bundle.proof import _limit\n"
        "nice, file = os.nice(0), open(sys.argv[1], 'wb', buffering=0)\n_limit(30, 256 * 2**20)\n"
        "print(os.nice(0) == min(nice + 10, 19))\n"
        "try:\n    file.write(b'x')\nexcept OSError as error:\n    print(errno.errorcode[error.errno])\n"
        "bytearray(512 * 2**20)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.split() == ["True", "EFBIG"]
    assert "MemoryError" in done.stderr
    assert refusal(publish(), ProofLimits(memory_bytes=2**20))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit(3)", "exit code 3: silently"),
        ("sys.exit('no such luck')", "exit code 1: no such luck"),
        ("pass", "exit code 0"),
        ("print('no json')", "said what is no answer"),
        ("print('{}')", "said what is no answer"),
        ("print('[]')", "said what is no answer"),
    ],
)
def test_a_child_that_does_not_answer_is_a_refusal(child, script, why):
    child(script)
    assert why in refusal(publish())


def test_what_native_code_prints_is_no_answer():
    """The child's answer has a way of its own: what a library writes to standard output goes elsewhere."""
    script = (
        "import os, sys\nfrom pdp.bundle import proof\nreal = proof._prove_here\n"
        "def noisy(*given):\n    os.write(1, b'{\"cases\": 99}\\n')\n    return real(*given)\n"
        "proof._prove_here = noisy\nsys.exit(proof.prove_main(['60', str(2**31)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=publish(files=in_cedar()), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b'{"cases": 1}\n')


def test_the_child_inherits_no_secrets(child, monkeypatch):
    monkeypatch.setenv("EXEQUATUR_SECRET", "x")
    child("sys.exit(' '.join(sorted(name for name in os.environ if name.startswith('EXEQUATUR'))) or 'none')")
    assert refusal(publish()).endswith("exit code 1: none")


def test_unsigned_is_taken_only_where_no_keys_are_given(tmp_path):
    archive = write_archive(in_cedar())
    assert not prove(archive, None, now=NOW).bundle.signed
    (tmp_path / "b.tar.gz").write_bytes(archive)
    assert not load(tmp_path / "b.tar.gz", None, now=NOW).signed
    with pytest.raises(BundleRejected, match="not signed"):
        load(tmp_path / "b.tar.gz", keys(), now=NOW)


def test_who_serves_verifies_again(tmp_path):
    path = tmp_path / "b.tar.gz"
    data = bytearray(publish())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleRejected):
        load(path, keys(), now=NOW)
    with pytest.raises(BundleRejected, match="cannot be read: no such file"):
        load(tmp_path / "other", keys(), now=NOW)
    path.write_bytes(write_archive({**built().files, "tools.json": b"{}"}))
    with pytest.raises(BundleRejected):
        load(path, None, now=NOW)


def test_a_module_of_another_machine_is_refused(tmp_path):
    (tmp_path / "b.tar.gz").write_bytes(publish())
    with pytest.raises(BundleRejected, match=r"`policy.wasm`"):
        load(tmp_path / "b.tar.gz", keys(), now=NOW, wasm_module=b"\x7fELF nonsense")


def test_a_tenant_of_its_own_runs_the_same_cases():
    assert prove(publish(files=in_cedar(), tenant="acme"), keys(), now=NOW, tenant="acme").cases == 1


def test_who_loads_lets_others_have_their_turn_and_puts_all_back(proven, tmp_path, monkeypatch):
    turns: list[float] = []
    monkeypatch.setattr(loader, "_pause", lambda: turns.append(sys.getswitchinterval()))
    usual = sys.getswitchinterval()
    kept = keep(proven, tmp_path)
    load(kept.bundle, keys(), now=NOW)
    assert turns
    assert max(turns) < usual / 10
    with pytest.raises(BundleRejected):
        load(tmp_path / "nothing", keys(), now=NOW)
    assert (sys.getswitchinterval(), gc.isenabled()) == (usual, True)
