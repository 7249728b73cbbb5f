"""Nothing reaches a tool but on the gate's word, and the gate gives its word for exact bytes alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur.action import action_digest
from exequatur.values import Decision, Effect, Obligation, Outcome, Reason, ReasonKind
from sidecar.gate import (
    NEXT,
    Answered,
    Ask,
    Call,
    Command,
    Event,
    Finished,
    Forward,
    Gate,
    Proposed,
    Refuse,
    Settle,
    State,
    Unanswered,
    Why,
    Withdrawn,
)

CALL = Call("default", "coder", "", "git/git_status", b"\x11" * 32, b'{"repo_path":"/work"}')
OTHER = dataclasses.replace(CALL, arguments_json=b'{"repo_path":"/etc"}')
SESSION = "0190-session"


def digest(call: Call, session: str = SESSION) -> bytes:
    return action_digest(
        tenant=call.tenant,
        agent=call.agent,
        session=session,
        tool=call.tool,
        definition_sha256=call.definition_sha256,
        arguments_json=call.arguments_json,
    )


ALLOW = Decision(
    decision_id="d1",
    effect=Effect.ALLOW,
    reasons=(Reason(ReasonKind.PERMITTED, "reading is fine"),),
    action_digest=digest(CALL),
    session=SESSION,
)
WARN = dataclasses.replace(ALLOW, effect=Effect.WARN)
DENY = dataclasses.replace(ALLOW, effect=Effect.DENY)
APPROVAL = dataclasses.replace(ALLOW, effect=Effect.REQUIRE_APPROVAL)


def play(*script: Event | Command, gate: Gate | None = None) -> Gate:
    """Feed the events of a script and compare the commands between them."""
    gate, said = gate or Gate(), []
    for line in script:
        if isinstance(line, Event):
            assert said == [], f"{line} comes before {said}"
            said = list(gate.receive(line))
        else:
            assert said, f"nothing was said where {line} is wanted"
            assert said.pop(0) == line
    assert said == []
    return gate


FORWARD = Forward(CALL, "d1")


@pytest.mark.parametrize("decision", [ALLOW, WARN])
def test_an_allowed_action_is_forwarded_and_settled(decision):
    play(Proposed(CALL), Ask(CALL), Answered(decision), FORWARD, Finished(ok=True), Settle("d1", Outcome.EXECUTED))


def test_a_forwarded_action_that_fails_or_is_lost_is_settled_as_failed():
    play(Proposed(CALL), Ask(CALL), Answered(ALLOW), FORWARD, Finished(ok=False), Settle("d1", Outcome.FAILED))


@pytest.mark.parametrize(("decision", "why"), [(DENY, Why.DENIED), (APPROVAL, Why.APPROVAL)])
def test_a_denial_is_refused_and_settles_nothing(decision, why):
    play(Proposed(CALL), Ask(CALL), Answered(decision), Refuse(why))


def test_any_status_other_than_ok_is_a_denial():
    play(Proposed(CALL), Ask(CALL), Unanswered(), Refuse(Why.UNANSWERED))


def test_an_effect_that_is_not_known_is_a_denial():
    unknown = dataclasses.replace(ALLOW, effect=Effect.UNSPECIFIED)
    play(Proposed(CALL), Ask(CALL), Answered(unknown), Refuse(Why.UNSPECIFIED))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"obligations": (Obligation("mask_result", b"{}"),)}, Why.OBLIGATION),
        ({"obligations": (Obligation("rewrite_arguments", b'{"repo_path":"/tmp"}'),)}, Why.OBLIGATION),
        ({"action_digest": digest(OTHER)}, Why.DIGEST),
        ({"action_digest": b""}, Why.DIGEST),
        ({"action_digest": digest(CALL)[:31]}, Why.DIGEST),
        ({"session": "another-session"}, Why.DIGEST),
        ({"session": ""}, Why.INCOMPLETE),
        ({"reasons": ()}, Why.INCOMPLETE),
    ],
)
def test_a_go_ahead_that_does_not_fit_is_refused_and_given_back(change, why):
    answer = Answered(dataclasses.replace(ALLOW, **change))
    play(Proposed(CALL), Ask(CALL), answer, Refuse(why), Settle("d1", Outcome.NOT_EXECUTED))


def test_a_go_ahead_without_an_id_is_refused():
    answer = Answered(dataclasses.replace(ALLOW, decision_id=""))
    play(Proposed(CALL), Ask(CALL), answer, Refuse(Why.INCOMPLETE))


def test_a_repeated_answer_is_no_second_go_ahead_and_is_not_given_back():
    # The first call may have used it: to settle it as never executed would pay for what ran.
    answer = Answered(dataclasses.replace(ALLOW, repeated_answer=True))
    play(Proposed(CALL), Ask(CALL), answer, Refuse(Why.REPEATED))


def test_an_answer_for_another_session_than_the_one_asked_for_is_refused():
    call = dataclasses.replace(CALL, session="mine")
    play(Proposed(call), Ask(call), Answered(ALLOW), Refuse(Why.SESSION), Settle("d1", Outcome.NOT_EXECUTED))


@pytest.mark.parametrize("member", ["tenant", "agent", "tool", "definition_sha256", "arguments_json"])
def test_the_digest_covers_every_member_of_the_call(member):
    changed = dataclasses.replace(
        CALL, **{member: b"{}" if member == "arguments_json" else type(getattr(CALL, member))()}
    )
    play(Proposed(changed), Ask(changed), Answered(ALLOW), Refuse(Why.DIGEST), Settle("d1", Outcome.NOT_EXECUTED))


def test_one_changed_byte_between_judgement_and_forwarding_is_refused():
    original = CALL.arguments_json
    for at in range(len(original)):
        for bit in range(8):
            changed = original[:at] + bytes([original[at] ^ (1 << bit)]) + original[at + 1 :]
            gate = Gate()
            gate.receive(Proposed(dataclasses.replace(CALL, arguments_json=changed)))
            assert not any(isinstance(command, Forward) for command in gate.receive(Answered(ALLOW)))


def test_a_withdrawn_action_is_not_forwarded_and_its_go_ahead_is_given_back():
    play(
        Proposed(CALL),
        Ask(CALL),
        Withdrawn(),
        Refuse(Why.WITHDRAWN),
        Answered(ALLOW),
        Settle("d1", Outcome.NOT_EXECUTED),
    )


@pytest.mark.parametrize("late", [Answered(DENY), Unanswered()])
def test_a_withdrawn_action_that_is_denied_says_nothing_more(late):
    play(Proposed(CALL), Ask(CALL), Withdrawn(), Refuse(Why.WITHDRAWN), late)


def decisions() -> st.SearchStrategy[Decision]:
    return st.builds(
        Decision,
        decision_id=st.sampled_from(["", "d1", "d2"]),
        effect=st.sampled_from(Effect),
        reasons=st.sampled_from([(), ALLOW.reasons]),
        obligations=st.sampled_from([(), (Obligation("x", b"{}"),)]),
        action_digest=st.sampled_from([b"", digest(CALL), digest(OTHER), digest(CALL, "s2")]),
        session=st.sampled_from(["", SESSION, "s2"]),
        repeated_answer=st.booleans(),
    )


EVENTS = st.one_of(
    st.sampled_from(
        [Proposed(CALL), Proposed(OTHER), Unanswered(), Withdrawn(), Finished(ok=True), Finished(ok=False)]
    ),
    st.builds(Answered, decisions()),
    st.just(Answered(ALLOW)),
)


@given(st.lists(EVENTS, max_size=8))
def test_no_sequence_of_events_forwards_without_an_allow_of_these_bytes(events):
    gate, proposed, forwarded, settled = Gate(), None, 0, 0
    for event in events:
        try:
            commands = gate.receive(event)
        except RuntimeError:  # out of order: nothing happens
            continue
        if isinstance(event, Proposed):
            proposed = event.call
        for command in commands:
            if isinstance(command, Forward):
                forwarded += 1
                assert isinstance(event, Answered)
                decision = event.decision
                assert decision.allowed
                assert decision.reasons
                assert command.call is proposed
                assert decision.action_digest == digest(command.call, decision.session)
                assert command.decision_id == decision.decision_id != ""
            if isinstance(command, Settle):
                settled += 1
                assert (command.outcome is Outcome.NOT_EXECUTED) == (forwarded == 0)
    assert forwarded <= 1
    assert settled <= 1


def test_an_event_out_of_order_is_our_bug_and_moves_nothing():
    gate = Gate()
    for event in (Answered(ALLOW), Unanswered(), Withdrawn(), Finished(ok=True)):
        with pytest.raises(RuntimeError, match="while idle"):
            gate.receive(event)
    assert gate.state is State.IDLE
    play(Proposed(CALL), Ask(CALL), Answered(ALLOW), FORWARD, gate=gate)
    for event in (Proposed(CALL), Answered(ALLOW), Unanswered(), Withdrawn()):
        with pytest.raises(RuntimeError, match="while forwarded"):
            gate.receive(event)


def test_only_one_transition_leads_to_forwarding():
    assert [pair for pair, state in NEXT.items() if state is State.FORWARDED] == [
        (State.WAITING, next(t for s, t in NEXT if t.name == "GO"))
    ]
