"""The way of one action: every step refuses what it should, and nothing is counted unless the action may run."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import replace

import pytest

from exequatur.action import action_digest
from exequatur.record import decode, encode
from judging import ENFORCER, HOUR, OTHER, PERMIT, REGISTRY, Scripted, action, says, session, snapshot
from pdp.judge import failed, judge, timed
from pdp.model import Effect, LastMinute, Reason, ReasonKind, Verdict
from pdp.policies import Standing
from policies import NOW

DENY, ALLOW = Effect.DENY, Effect.ALLOW


def ask(asked=None, run=None, policy=None, *, enforcer=ENFORCER, now=NOW, **more):
    return judge(
        asked or action(),
        session() if run is None else run,
        Standing(policy or snapshot()),
        enforcer=enforcer,
        now=now,
        decision_id="d1",
        **more,
    )


def refused(outcome, kind, match, run=None):
    decision = outcome.decision
    assert decision.effect is DENY
    assert [reason.kind for reason in decision.reasons] == [kind]
    assert match in decision.reasons[0].text
    assert outcome.reservation is None
    assert decision.reserved_microusd == 0
    assert decision.settle_by is None
    assert outcome.session == (session() if run is None else run)
    assert outcome.record["effect"] == "deny"
    return decision


def test_an_allowed_action_is_counted_labelled_and_held_for(capsys):
    outcome = ask(action("git/push", cost=30), session(labels=frozenset({"pii"}), steps=2, calls={"git/push": 1}))
    assert outcome.decision.effect is ALLOW
    assert outcome.session == session(
        labels=frozenset({"pii", "left_house"}),
        steps=3,
        calls={"git/push": 2},
        last_minute=LastMinute().counted(NOW, 0, 1),
        reserved_microusd=100,
    )
    assert outcome.reservation is not None
    assert outcome.reservation.amount_microusd == outcome.decision.reserved_microusd == 100, "the price, not the claim"
    assert outcome.reservation.expires_at == outcome.decision.settle_by == NOW + dt.timedelta(minutes=10)
    assert ask(action("git/push", cost=300)).decision.reserved_microusd == 300, "the claim, when it is larger"
    assert ask(action(), reservation_ttl=HOUR).decision.settle_by == NOW + HOUR


@pytest.mark.parametrize("effect", [Effect.REQUIRE_APPROVAL, DENY])
def test_nothing_is_counted_for_an_action_that_may_not_run(effect):
    outcome = ask(action("git/push"), policy=snapshot(says(effect)))
    assert outcome.decision.effect is effect
    assert outcome.session == session()
    assert outcome.reservation is None


def test_a_warning_runs_and_counts():
    outcome = ask(policy=snapshot(says(Effect.WARN, ReasonKind.RESTRICTED)))
    assert outcome.decision.effect is Effect.WARN
    assert outcome.session.steps == 1


def test_an_enforcer_that_the_inventory_does_not_list_speaks_for_nobody():
    refused(ask(enforcer=OTHER), ReasonKind.INVALID, "may not speak for this agent")
    refused(ask(action(agent="nobody")), ReasonKind.INVALID, "may not speak for this agent")
    refused(ask(action(agent="clerk")), ReasonKind.INVALID, "may not speak for this agent")


@pytest.mark.parametrize(
    "other",
    [{"enforcer": OTHER}, {"agent": "clerk"}, {"instance": "i2"}, {"tenant": "acme"}],
    ids=lambda changes: next(iter(changes)),
)
def test_naming_anothers_session_is_answered_like_naming_none(other):
    named = action(session="s1")
    theirs = refused(ask(named, session(**other)), ReasonKind.INVALID, "no session with this id", session(**other))
    nobodys = judge(named, None, Standing(snapshot()), enforcer=ENFORCER, now=NOW, decision_id="d1").decision
    assert theirs == nobodys, "the answer must not tell whether the session exists"
    refused(ask(action(), session(**other)), ReasonKind.INVALID, "no open session", session(**other))


def test_a_session_that_is_over_runs_nothing():
    closed = session(closed_at=NOW)
    refused(ask(run=closed), ReasonKind.INVALID, "is over", closed)
    refused(ask(now=NOW + HOUR), ReasonKind.INVALID, "is over")
    assert ask(now=NOW + HOUR - dt.timedelta(microseconds=1)).decision.effect is ALLOW


def test_steps_and_budget_end():
    spent = session(steps=10)
    refused(ask(run=spent), ReasonKind.EXHAUSTED, "10 steps", spent)
    tight = session(spent_microusd=500, reserved_microusd=401)
    refused(ask(action("git/push"), tight), ReasonKind.EXHAUSTED, "no room for 100", tight)
    assert ask(action("git/push"), replace(tight, reserved_microusd=400)).decision.effect is ALLOW
    overdrawn = session(spent_microusd=1001)
    refused(ask(action(), overdrawn), ReasonKind.EXHAUSTED, "no room for 0", overdrawn)


def test_a_tool_must_be_registered_as_it_is_and_in_scope():
    refused(ask(action("git/rm")), ReasonKind.INVALID, "`git/rm` is not registered")
    refused(ask(action(definition_sha256=b"x" * 32)), ReasonKind.INVALID, "is not the one that was registered")
    pinned = action(definition_sha256=REGISTRY.tools["git/log"].definition_sha256)
    assert ask(pinned).decision.effect is ALLOW
    for scope in ((), ("git/push",), ("gi/*",), ("git",)):
        narrow = session(scope=scope)
        refused(ask(run=narrow), ReasonKind.INVALID, "not in the session's scope", narrow)
    for scope in (("*",), ("git/log",)):
        assert ask(run=session(scope=scope)).decision.effect is ALLOW


def test_arguments_that_are_not_understood_are_denied_without_their_values():
    secret = "c4n4ry"
    for arguments in (
        {"repo_path": f"/work/../{secret}"},
        {"repo_path": "/work", secret: secret},
        {},
        {"repo_path": 7},
    ):
        outcome = ask(action(arguments=arguments))
        refused(outcome, ReasonKind.INVALID, "")
        assert f"/{secret}" not in json.dumps(outcome.record)


def test_policy_that_is_not_in_force_is_stale_before_anything_else():
    refused(ask(now=NOW + 24 * HOUR, enforcer=OTHER), ReasonKind.STALE, "has expired")
    early = snapshot(not_before=NOW + HOUR)
    refused(ask(policy=early), ReasonKind.STALE, "does not count yet")
    refused(ask(action(tenant="acme")), ReasonKind.INVALID, "does not serve this tenant")


def test_whatever_breaks_is_a_denial_without_its_text():
    def burst(_):
        raise RuntimeError("c4n4ry")

    outcome = ask(policy=snapshot(burst))
    assert outcome.decision.effect is DENY
    assert outcome.decision.reasons[0].kind is ReasonKind.ERROR
    assert outcome.reservation is None

    class Panic(BaseException):
        pass

    def panic(self, arguments):
        raise Panic("c4n4ry")

    broken = REGISTRY.tools["git/log"]
    policy = snapshot(
        registry=type(
            "R",
            (),
            {
                "tools": {
                    "git/log": type(
                        "T", (), {"definition_sha256": broken.definition_sha256, "full": "git/log", "resolve": panic}
                    )()
                }
            },
        )()
    )
    outcome = ask(policy=policy)
    refused(outcome, ReasonKind.ERROR, "Panic")
    assert "c4n4ry" not in json.dumps(outcome.record)


def test_a_verdict_without_reasons_proves_nothing():
    assert ask(policy=snapshot(Verdict("cedar", ALLOW, ()))).decision.reasons[0].kind is ReasonKind.ERROR
    assert ask(policy=snapshot(Verdict("cedar", ALLOW, ()))).decision.effect is DENY


def test_the_digest_is_what_the_enforcer_can_compute():
    asked = action("git/push")
    decision = ask(asked).decision
    assert decision.session == "s1"
    assert decision.action_digest == action_digest(
        tenant="default",
        agent="coder",
        session="s1",
        tool="git/push",
        definition_sha256=b"",
        arguments_json=asked.arguments_json,
    )


def test_the_record_says_who_what_and_why_and_fits():
    asked = action("git/push", {"repo_path": "/c4n4ry"})
    outcome = timed(ask(asked, door_enforced=True), 57)
    record = outcome.record
    assert outcome.decision.latency_us == record["latency_us"] == 57
    assert {
        "kind": "decision",
        "time": "2026-01-05T10:00:00.000000Z",
        "enforcer": ENFORCER,
        "agent": "coder",
        "session": "s1",
        "subject": "anna@example.com",
        "tool": "git/push",
        "arguments_sha256": hashlib.sha256(asked.arguments_json).hexdigest(),
        "effect": "allow",
        "bundle": "01" * 32,
        "sequence": 7,
        "steps": 1,
        "reserved_microusd": 100,
        "door": "grpc",
        "door_enforced": True,
    }.items() <= record.items()
    assert record["reasons"] == [
        {"kind": "permitted", "policy": "p1", "engine": "cedar", "text": "it is permitted", "owasp": ""}
    ]
    assert b"c4n4ry" not in encode(record, writer="w", number=1)


def test_the_largest_decision_fits_into_a_record():
    long = "\N{GRINNING FACE}" * 500
    many = tuple(Reason(ReasonKind.FORBIDDEN, long, f"p{n}" + "x" * 120, "cedar", "ASI02") for n in range(999))
    verdict = Verdict("cedar", DENY, many, errors=(long,) * 999)
    wide = "\N{GRINNING FACE}" * 256
    asked = action(instance=wide, door=wide)
    outcome = ask(asked, session(instance=wide, subject=wide), snapshot(verdict))
    assert len(outcome.decision.reasons) > 1
    kept = decode(encode(outcome.record, writer="w" * 200, number=1))
    assert "left_out" not in kept, "who, which tool and why must stay readable"


def test_a_session_that_was_not_proved_is_only_what_the_caller_said():
    outcome = ask(action(session="s1"), session(enforcer=OTHER))
    assert outcome.record["session"] == ""
    assert outcome.record["subject"] == ""
    assert outcome.record["requested_session"] == "s1"


def test_the_facts_are_the_channels_and_the_registrys():
    engine = Scripted(PERMIT)
    policy = snapshot()
    policy = replace(policy, engines=((policy.engines[0][0], engine),))
    ask(policy=policy, door_enforced=True)
    ask(policy=policy)
    assert [facts.door for facts in engine.seen] == ["enforced", "cooperative"]
    assert engine.seen[0].agent.owner == "platform@example.com"
    assert engine.seen[0].resource.id == "/work"


def test_our_own_failure_is_a_denial_with_evidence():
    outcome = failed(
        action(),
        Standing(snapshot()),
        "the decision could not be recorded",
        enforcer=ENFORCER,
        now=NOW,
        decision_id="d",
    )
    assert outcome.decision.effect is DENY
    assert outcome.decision.reasons[0].kind is ReasonKind.ERROR
    assert outcome.decision.errors == ("the decision could not be recorded",)
    assert outcome.decision.bundle_sequence == outcome.record["sequence"] == 7
