"""A bundle compiled: all of it or nothing, and judging raises nothing."""

import dataclasses
import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exequatur.action import Claims
from pdp.engine.manifest import Role
from pdp.engine.reading import PolicyError
from pdp.engine.rego import compile_module
from pdp.engine.snapshot import Snapshot
from pdp.model import Effect, ReasonKind
from policies import NOW, TOOLS, as_json, bundle, facts, manifest, registry, rego

REGISTRY = registry()
CEDAR = b'@id("all") permit(principal, action, resource);'
BOTH = manifest(("cedar", "decide"), ("rego", "restrict"))
RESTRICT = """package exequatur
deny contains {"id": "tainted", "reason": "untrusted input has entered"} if "untrusted_input" in input.session.labels
warn contains "many steps" if input.session.steps > 50
decision := {"deny": deny, "warn": warn}
"""


def snapshot(files, *, signed=True, **more):
    return Snapshot.load(bundle(files, signed=signed), **more)


def call(name="git/log", arguments=None, **changes):
    return facts(name, arguments or {"repo_path": "/work/app"}, known=REGISTRY, **changes)


@functools.cache
def machine_code():
    return compile_module(rego(RESTRICT))


def both(**more):
    files = {"exequatur.json": BOTH, "a.cedar": CEDAR, "policy.wasm": rego(RESTRICT), "policy.rego": RESTRICT.encode()}
    return snapshot(files, wasm_module=machine_code(), **more)


def test_two_engines_judge_and_the_strictest_wins():
    loaded = both()
    assert loaded.judge(call()).effect is Effect.ALLOW
    warned = loaded.judge(call(steps=51))
    assert (warned.effect, [reason.engine for reason in warned.reasons]) == (Effect.WARN, ["rego", "cedar"])
    denied = loaded.judge(call(labels=frozenset({"untrusted_input"})))
    assert (denied.effect, [reason.policy for reason in denied.reasons]) == (Effect.DENY, ["tainted"])


def test_what_the_bundle_says_of_itself_is_kept():
    loaded = snapshot(
        {"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "limits.json": as_json({"max_steps": 9})}
    )
    assert (loaded.digest, loaded.sequence, loaded.signed, loaded.tenant) == (b"\1" * 32, 7, True, "default")
    assert loaded.expires_at > NOW
    assert loaded.not_before is None
    assert loaded.limits.max_steps == 9
    assert set(loaded.registry.tools) == set(TOOLS)
    assert set(loaded.agents) == {"coder", "clerk"}
    assert [spec.role for spec, _ in loaded.engines] == [Role.DECIDE]


def test_an_unsigned_bundle_never_simply_allows():
    loaded = both(signed=False)
    verdict = loaded.judge(call())
    assert verdict.effect is Effect.WARN
    assert verdict.reasons[0].policy == "unsafe-unsigned"
    assert loaded.judge(call(labels=frozenset({"untrusted_input"}))).effect is Effect.DENY


class Broken:
    def __init__(self, error):
        self.error = error

    def judge(self, facts):
        raise self.error


class Panic(BaseException):
    """As pyo3 raises it."""


@pytest.mark.parametrize("error", [RuntimeError("secret"), RecursionError(), MemoryError(), Panic("secret")])
def test_an_engine_that_fails_denies_and_its_words_do_not_leak(error):
    loaded = both()
    broken = dataclasses.replace(loaded, engines=(loaded.engines[0], (loaded.engines[1][0], Broken(error))))
    verdict = broken.judge(call())
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
    assert verdict.errors
    assert "secret" not in repr(verdict)


def test_without_engines_everything_is_denied():
    assert dataclasses.replace(both(), engines=()).judge(call()).effect is Effect.DENY


def test_facts_that_are_no_facts_are_denied():
    assert both().judge(None).effect is Effect.DENY


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "`exequatur.json` is not in the bundle"),
        ({"exequatur.json": manifest(("cedar", "decide"))}, "no Cedar policy permits"),
        ({"exequatur.json": manifest(("rego", "decide"))}, "`policy.wasm` is not in the bundle"),
        ({"exequatur.json": manifest(("rego", "decide")), "a.cedar": CEDAR}, "`a.cedar`: no engine"),
        ({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "x.rego": b""}, "`x.rego`: no engine"),
        (
            {"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "policy.wasm": b""},
            "`policy.wasm`: no engine",
        ),
        ({"exequatur.json": manifest(("cedar", "restrict")), "a.cedar": CEDAR}, "`decide`"),
        ({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "tools.json": b"{}"}, "tools"),
        ({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "agents.json": b"{}"}, "`agents.json:1`"),
        ({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR, "limits.json": b"[]"}, "`limits.json:1`"),
        (
            {"exequatur.json": manifest(("cedar", "decide")), "sub/a.cedar": b"permit(principal, action, resource"},
            "`sub/a.cedar:1`",
        ),
    ],
)
def test_a_bundle_that_cannot_be_served_whole_is_refused(files, words):
    with pytest.raises(PolicyError) as refused:
        snapshot(files)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["data.json", "sub/data.json"])
def test_data_that_is_not_strict_or_not_at_the_top_is_refused(name):
    files = {"exequatur.json": BOTH, "a.cedar": CEDAR, "policy.wasm": rego(RESTRICT), name: b'{"a": 1, "a": 2}'}
    with pytest.raises(PolicyError, match=r"data\.json"):
        snapshot(files)


def test_a_missing_registry_or_inventory_is_refused():
    for missing in ("tools.json", "agents.json"):
        whole = bundle({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": CEDAR})
        left = dataclasses.replace(whole, files={name: data for name, data in whole.files.items() if name != missing})
        with pytest.raises(PolicyError, match=f"`{missing}` is not in the bundle"):
            Snapshot.load(left)


# --- the same rules in both languages

SAME_CEDAR = """
@id("read") permit(principal in Team::"engineering", action in Action::"read", resource);
@id("own") permit(principal, action == Action::"git/commit", resource) when {
    principal.domains.contains("code") && resource.repo_path like "/work/*"
};
@id("tainted") forbid(principal, action in Action::"write", resource) when { context.session.labels.contains("untrusted_input") };
@id("late") forbid(principal, action, resource) when { context.request.hour >= 20 };
@id("wip") @effect("warn") forbid(principal, action == Action::"git/commit", resource) when { context.input.message like "*WIP*" };
@id("costly") @effect("require_approval") @approvers("finance") forbid(principal, action, resource) when { context.claims.cost_estimate_microusd > 1000 };
"""
SAME_REGO = """package exequatur
default allow := false
action := concat("/", [input.tool.server, input.tool.name])
allow if { "engineering" in input.agent.teams; input.tool.access == "read" }
allow if { action == "git/commit"; "code" in input.agent.domains; startswith(input.resource.attributes.repo_path, "/work/") }
deny contains {"id": "tainted", "reason": "r"} if { input.tool.access == "write"; "untrusted_input" in input.session.labels }
deny contains {"id": "late", "reason": "r"} if input.request.hour >= 20
warn contains {"id": "wip", "reason": "r"} if { action == "git/commit"; contains(input.input.message, "WIP") }
require_approval contains {"id": "costly", "reason": "r", "approvers": ["finance"]} if input.claims.cost_estimate_microusd > 1000
decision := {"allow": allow, "deny": deny, "warn": warn, "require_approval": require_approval}
"""
CALLS = st.one_of(
    st.tuples(st.just("git/log"), st.fixed_dictionaries({"repo_path": st.sampled_from(["/work/a", "/etc"])})),
    st.tuples(
        st.just("git/commit"),
        st.fixed_dictionaries(
            {"repo_path": st.sampled_from(["/work/a", "/etc"]), "message": st.sampled_from(["WIP", "a WIP b", "done"])}
        ),
    ),
    st.tuples(st.just("shell/run"), st.just({"command": "ls"})),
)


@pytest.fixture(scope="module")
def languages():
    cedar = snapshot({"exequatur.json": manifest(("cedar", "decide")), "a.cedar": SAME_CEDAR.encode()})
    other = snapshot({"exequatur.json": manifest(("rego", "decide")), "policy.wasm": rego(SAME_REGO)})
    return cedar, other


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    CALLS,
    st.sets(st.sampled_from(["untrusted_input", "pii"])),
    st.tuples(st.sampled_from(["coder", "clerk"]), st.sampled_from([3, 20]), st.sampled_from([0, 5000])),
)
def test_the_same_rules_in_cedar_and_rego_agree(languages, asked, labels, state):
    (name, arguments), (agent, hour, cost) = asked, state
    given_facts = call(
        name,
        arguments,
        agent=agent,
        labels=frozenset(labels),
        now=NOW.replace(hour=hour),
        claims=Claims(cost_estimate_microusd=cost),
    )
    one, other = (loaded.judge(given_facts) for loaded in languages)
    assert (one.effect, one.approvers, one.errors) == (other.effect, other.approvers, other.errors)
    if one.effect is Effect.DENY:
        assert {reason.kind for reason in one.reasons} == {reason.kind for reason in other.reasons}
    named = [
        {reason.policy for reason in verdict.reasons if reason.kind in (ReasonKind.FORBIDDEN, ReasonKind.RESTRICTED)}
        for verdict in (one, other)
    ]
    assert named[0] == named[1]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("more.CEDAR", "`more.CEDAR`: nothing reads it by this name: write it in small letters"),
        ("Limits.json", "`Limits.json`: nothing reads it by this name: write it in small letters"),
        ("cases/x.YAML", "`cases/x.YAML`: nothing reads it by this name"),
        ("README.md", ""),
        ("Teams/Permits.cedar", ""),
    ],
)
def test_a_file_that_only_looks_like_one_of_ours_is_refused(name, why):
    files = {
        "exequatur.json": manifest(("cedar", "decide")),
        "a.cedar": b"permit (principal, action, resource);",
        name: b"",
    }
    if not why:
        assert Snapshot.load(bundle(files)).manifest.name == "test"
        return
    with pytest.raises(PolicyError, match=why):
        Snapshot.load(bundle(files))


def test_names_that_differ_by_their_letters_alone_are_refused():
    files = {"exequatur.json": manifest(("cedar", "decide")), "a.cedar": b"permit (principal, action, resource);"}
    with pytest.raises(PolicyError, match=r"`b\.txt`: it differs from `B\.txt` by large and small letters alone"):
        Snapshot.load(bundle({**files, "B.txt": b"", "b.txt": b""}))


def test_what_was_proved_is_not_validated_again_and_still_denies_what_is_not_valid():
    files = {
        "exequatur.json": manifest(("cedar", "decide")),
        "a.cedar": b"permit (principal, action, resource) when { context.input.nothing == 1 };",
    }
    with pytest.raises(PolicyError, match="nothing"):
        Snapshot.load(bundle(files))
    verdict = Snapshot.load(bundle(files), proved=True).judge(call())
    assert (verdict.effect, verdict.reasons[0].kind) == (Effect.DENY, ReasonKind.ERROR)
