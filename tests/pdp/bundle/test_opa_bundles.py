"""A bundle whose Rego an OPA server judges: built, proved and tried as any other, with the very same answers."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from exequatur.trust.archive import write_archive
from exequatur.trust.opened import unsafe_read_unsigned
from opa_servers import with_opa
from pdp.bundle import cases
from pdp.bundle.build import Built, OpaError, build, check_built
from pdp.bundle.proving import BundleRejected, ProofLimits, prove
from pdp.bundle.standing import standing
from pdp.engine.opa import revision_of
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot
from pdp.model import Decision, Effect, ReasonKind
from policies import opa
from processes import named
from publisher import NOW, keys, publish, sources
from stack import until

OPA = Path(opa())
PACK = Path(__file__).parents[3] / "bundles" / "coding-agent.tar.gz"


@functools.cache
def built() -> Built:
    return build(with_opa(sources()), OPA)


def with_revision(files: dict[str, bytes]) -> dict[str, bytes]:
    about = {**json.loads(files[".manifest"]), "revision": revision_of(files)}
    return {**files, ".manifest": json.dumps(about).encode()}


def refusal(data: bytes, **options) -> str:
    with pytest.raises(BundleRejected) as refused:
        prove(data, keys(), now=NOW, **{"opa_binary": OPA, **options})
    return str(refused.value)


def told(decision: Decision) -> tuple[object, ...]:
    """Give all of a decision but who said it, and whether it can be had again."""
    reasons = [(r.kind, r.text, r.policy, r.owasp, r.engine.replace("opa", "rego")) for r in decision.reasons]
    return (
        decision.effect,
        reasons,
        decision.obligations,
        decision.approvers,
        decision.errors,
        decision.reserved_microusd,
    )


def test_each_case_of_the_coding_agents_pack_is_decided_as_the_compiled_module_decides_it():
    compiled = replace(unsafe_read_unsigned(PACK.read_bytes()), signed=True)
    files = with_revision(with_opa(dict(compiled.files)))
    served = replace(unsafe_read_unsigned(write_archive(files)), signed=True)
    with standing(served, OPA) as beside_opa:
        both = [cases.in_force(snapshot) for snapshot in (Snapshot.load(compiled), beside_opa)]
        pairs = [[cases.judged(case, snapshot).decision for snapshot in both] for case in cases.read(files)]
    assert len(pairs) > 200
    assert [(told(ours), told(opas)) for ours, opas in pairs if told(ours) != told(opas)] == []
    assert all(ours.replayable for ours, _ in pairs)
    judged = [opas for _, opas in pairs if any(r.engine for r in opas.reasons)]
    assert judged
    assert not any(opas.replayable for opas in judged)


def test_it_is_built_without_a_module_and_again_to_the_same_bytes():
    assert "policy.wasm" not in built().files
    assert not built().results.failures
    assert json.loads(built().files[".manifest"])["revision"] == revision_of(built().files)
    assert build(built().files, OPA).archive == built().archive
    check_built(built().files, OPA)


def test_it_is_proved_by_a_server_that_is_gone_afterwards():
    before = named("exequatur-proof-")
    proven = prove(publish(files=dict(built().files)), keys(), now=NOW, opa_binary=OPA)
    assert (proven.cases, proven.wasm_module) == (built().results.total, None)
    until(lambda: named("exequatur-proof-") <= before, what="the end of the server")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"decision.rego": b"package exequatur\n\nx := "}, "`decision.rego:3`: unexpected"),
        (
            {"decision.rego": b"package exequatur\n\nimport data.a\n\nx := 1\n"},
            "`decision.rego:3`: import data.a unused",
        ),
        ({"decision.rego": b"package exequatur\n\nx := 1\n"}, "decision"),
        ({"decision.rego": b"package exequatur\n\ndecision := nothing.at_all(1)\n"}, "`decision.rego:3`: undefined"),
    ],
)
def test_what_the_server_would_not_take_is_not_built(changed, words):
    with pytest.raises(PolicyError, match=words):
        build({**with_opa(sources()), **changed}, OPA)


def test_without_opa_it_is_neither_built_nor_proved():
    with pytest.raises(OpaError, match="`opa` is needed"):
        build(with_opa(sources()), None)
    assert "the engine `opa` needs the program `opa`, which is not here" in refusal(
        publish(files=dict(built().files)), opa_binary=None
    )


def test_without_its_client_it_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pdp.opa", None)
    with pytest.raises(PolicyError, match=r"needs `opa-python-client`: install `exequatur\[opa\]`"):
        build(with_opa(sources()), OPA)


def test_a_case_that_fails_is_a_refusal():
    files = with_revision(
        {**built().files, "cases/mail.yaml": built().files["cases/mail.yaml"].replace(b": allow", b": warn")}
    )
    assert refusal(publish(files=files)).startswith("1 of 10 cases failed: `cases/mail.yaml:1`")


def test_a_revision_that_is_not_of_the_content_is_a_refusal():
    files = {**built().files, "data.json": b'{"mail": {"domains": ["elsewhere.example"]}}'}
    assert "`revision` is not the one of what is in the bundle" in refusal(publish(files=files))


HANGS = b"""package exequatur

decision := {"deny": [m | some a in numbers.range(1, 1000000); some b in numbers.range(1, 1000000); a * b < 0; m := "x"]}
"""


def test_a_policy_without_end_is_a_refusal_within_the_bound_and_leaves_nothing():
    files = with_revision({**built().files, "decision.rego": HANGS})
    before = named("exequatur-proof-")
    limits = ProofLimits(wall_s=1.5)
    assert refusal(publish(files=files), limits=limits) == "it was not proved within 1.5 s"
    until(lambda: named("exequatur-proof-") <= before, what="the end of the server")


ASKS_THE_NETWORK = b"""package exequatur

decision := {"deny": []} if http.send({"method": "get", "url": sprintf("http://127.0.0.1:1/%s", [input.tool.name])}).status_code == 200
"""
CASE = b"""
- name: "who cannot be asked allows nothing"
  agent: assistant
  tool: notes/read
  arguments: {path: /notes/secret.md}
  want: {effect: deny, kind: error, error: "the built-in `http.send` failed at `decision.rego:3`"}
"""


def test_a_policy_may_ask_the_network_and_an_error_there_is_a_denial():
    files = with_opa(sources(cases__mail_yaml=None))
    made = build({**files, "decision.rego": ASKS_THE_NETWORK, "cases/notes.yaml": CASE}, OPA)
    assert not made.results.failures
    bundle = replace(unsafe_read_unsigned(made.archive), signed=True)
    with standing(bundle, OPA) as snapshot:
        (case,) = cases.read(made.files)
        outcome = cases.judged(case, cases.in_force(snapshot))
    assert (outcome.decision.effect, outcome.decision.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert outcome.record["replayable"] is False
    assert "secret.md" not in json.dumps(outcome.record)
