"""The engine `opa`: only an answer by the bundle in force counts, and none can be had again from its record."""

from __future__ import annotations

import json

import pytest

from exequatur.trust.canonical import Json
from pdp.engine.answer import AnswerError
from pdp.engine.manifest import Role
from pdp.engine.opa import check_revision, entrypoint_of, revision_of
from pdp.engine.opa_engine import OpaEngine
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot
from pdp.model import Effect, ReasonKind
from policies import as_json, bundle, facts, manifest

FACTS = facts("git/log", {"repo_path": "/r"})


class Says:
    """A server that answers with a body, or raises."""

    def __init__(self, body: Json | Exception, *, shared: bool = False) -> None:
        self.body, self.asked, self.shared = body, [], shared

    def ask(self, rule, document):
        self.asked.append((rule, document))
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


def by(*revisions: str, result: Json = None) -> Json:
    """Give what OPA answers that holds bundles of these revisions."""
    bundles = {f"bundle {n}": {"revision": revision} for n, revision in enumerate(revisions)}
    return {"provenance": {"version": "1.22.0", "bundles": bundles}, "result": result or {"allow": True}}


def judge(body, **options):
    return OpaEngine(Says(body), "r1", "exequatur/decision", **options).judge(FACTS)


def test_an_answer_by_the_bundle_in_force_counts_and_is_not_replayable():
    server = Says(by("r1"))
    verdict = OpaEngine(server, "r1", "exequatur/decision").judge(FACTS)
    assert (verdict.effect, verdict.engine, verdict.replayable) == (Effect.ALLOW, "opa", False)
    ((rule, document),) = server.asked
    assert (rule, document["tool"]["name"]) == ("exequatur/decision", "log")


def test_a_server_of_several_tenants_has_others_bundles_beside_this_one():
    def effect(*revisions):
        server = Says(by(*revisions), shared=True)
        return OpaEngine(server, "r1", "exequatur/decision").judge(FACTS).effect

    assert effect("r1", "r2") is effect("r2", "r1") is effect("r1") is Effect.ALLOW
    assert effect("r2") is effect("r2", "r3") is effect() is effect("") is Effect.DENY


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (by("r2"), "another bundle"),
        (by(), "another bundle"),
        (by("r1", "r1"), "another bundle"),
        (by("r1", "r2"), "another bundle"),
        (by(""), "another bundle"),
        ({"result": {"allow": True}}, "another bundle"),
        ({"provenance": {"bundles": {"b": {}}}, "result": {"allow": True}}, "another bundle"),
        ({"provenance": {"bundles": ["r1"]}, "result": {"allow": True}}, "another bundle"),
        ([], "another bundle"),
        (None, "another bundle"),
        ({k: v for k, v in by("r1").items() if k != "result"}, "it is undefined"),
        (by("r1", result={"deny": []}), "`allow` is not true or false"),
        (by("r1", result={"allow": 1}), "`allow` is not true or false"),
        (by("r1", result={"allow": True, "x": 1}), "unknown member"),
        (AnswerError("the OPA server cannot be reached"), "cannot be reached"),
        (RuntimeError("secret"), "could not be asked: RuntimeError"),
    ],
)
def test_whatever_else_comes_is_a_denial_of_kind_error(body, words):
    verdict = judge(body)
    assert (verdict.effect, verdict.replayable) == (Effect.DENY, False)
    assert [reason.kind for reason in verdict.reasons] == [ReasonKind.ERROR]
    assert words in verdict.reasons[0].text
    assert "secret" not in verdict.reasons[0].text


def test_one_that_restricts_may_leave_allow_out():
    assert judge(by("r1", result={"deny": []}), role=Role.RESTRICT).effect is Effect.ALLOW
    denied = judge(by("r1", result={"deny": ["no"]}), role=Role.RESTRICT)
    assert (denied.effect, denied.reasons[0].engine) == (Effect.DENY, "opa")


def about(**members: Json) -> bytes:
    return json.dumps(members).encode()


FILES = {".manifest": about(roots=[""]), "a.rego": b"package a", "tools.json": b"{}"}


def test_a_revision_stands_for_the_whole_content():
    revision = revision_of(FILES)
    assert revision.startswith("sha256:")
    for changed in (
        {"a.rego": b"package b"},
        {"b.rego": b""},
        {"tools.json": b"{} "},
        {".manifest": about(roots=["a"])},
        {".manifest": about(roots=[""], revision="mine")},
    ):
        assert revision_of({**FILES, **changed}) != revision, changed
    assert revision_of({**FILES, ".signatures.json": b"x"}) == revision, "who signs is not what is signed"


def test_the_authors_own_revision_is_kept_and_covered():
    mine = revision_of({**FILES, ".manifest": about(roots=[""], revision="1.4")})
    assert mine.startswith("1.4@sha256:")
    built = {**FILES, ".manifest": about(roots=[""], revision=mine)}
    assert check_revision(built) == mine
    assert revision_of(built) == mine, "built again it is the same"
    forged = {**FILES, ".manifest": about(roots=[""], revision=mine.replace("1.4", "1.5"))}
    with pytest.raises(PolicyError, match="build the bundle again"):
        check_revision(forged)


@pytest.mark.parametrize("revision", [None, "", "1.4", "sha256:" + "0" * 64, 7, {}])
def test_a_revision_that_is_not_of_the_content_is_refused(revision):
    members = {"roots": [""]} if revision is None else {"roots": [""], "revision": revision}
    with pytest.raises(PolicyError, match=r"`\.manifest`: its `revision` is not the one"):
        check_revision({**FILES, ".manifest": about(**members)})


def opa_bundle(**changed: bytes):
    files = {"exequatur.json": manifest(("opa", "decide")), "a.rego": b"package a", ".manifest": about(), **changed}
    whole = bundle(files)
    return bundle({**files, ".manifest": about(revision=revision_of(whole.files))})


def test_a_snapshot_asks_the_server_that_it_is_given():
    whole = opa_bundle()
    revision = revision_of(whole.files)
    snapshot = Snapshot.load(whole, server=Says(by(revision)))
    assert snapshot.judge(FACTS).effect is Effect.ALLOW
    assert not snapshot.judge(FACTS).replayable
    assert Snapshot.load(whole, server=Says(by("r1"))).judge(FACTS).effect is Effect.DENY


def test_without_a_server_or_with_unread_policy_there_is_no_snapshot():
    with pytest.raises(PolicyError, match="judges by an OPA server, and there is none here"):
        Snapshot.load(opa_bundle())
    with pytest.raises(PolicyError, match=r"`policy\.wasm`: no engine"):
        Snapshot.load(opa_bundle(**{"policy.wasm": b"\0asm"}), server=Says(None))
    with pytest.raises(PolicyError, match=r"`a\.cedar`: no engine"):
        Snapshot.load(opa_bundle(**{"a.cedar": b""}), server=Says(None))


def test_the_rule_is_found_in_the_settings():
    assert entrypoint_of({"exequatur.json": manifest(("opa", "decide"))}) == "exequatur/decision"
    assert entrypoint_of({"exequatur.json": manifest(("cedar", "decide"))}) == ""
    assert entrypoint_of({}) == ""
    with pytest.raises(PolicyError):
        entrypoint_of({"exequatur.json": as_json([])})
