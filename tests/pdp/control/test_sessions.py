"""The rules of sessions hold whatever comes in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from judging import REGISTRY, session
from pdp.control.sessions import Fate, Held, WrongStateError, finish, has_room, in_scope, reserve, unfinish
from pdp.model import Reservation
from policies import NOW

PUSH = REGISTRY.tools["git/push"]
AMOUNT = st.integers(0, 400)
EVENT = st.one_of(
    st.tuples(st.just("reserve"), AMOUNT),
    st.tuples(st.sampled_from([Fate.SETTLED, Fate.CHARGED, Fate.RELEASED]), st.integers(0, 5), st.integers(0, 600)),
    st.tuples(st.just("undo"), st.integers(0, 5)),
)


@given(st.lists(EVENT, max_size=40))
def test_money_is_held_or_charged_and_never_more_than_the_budget_is_held(events):
    run, held = session(budget_microusd=1000), []
    for event in events:
        match event:
            case ("reserve", amount):
                if has_room(run, amount):
                    run = reserve(run, PUSH, amount, NOW)
                    held.append(Held(Reservation(f"d{len(held)}", run.id, "default", "e", amount, NOW)))
            case ("undo", index):
                if index < len(held) and held[index].fate is not Fate.HELD:
                    run, held[index] = unfinish(run, held[index])
            case (fate, index, cost):
                if index < len(held) and held[index].fate is Fate.HELD:
                    run, held[index] = finish(run, held[index], fate, cost)
        holding = [item.reservation.amount_microusd for item in held if item.fate is Fate.HELD]
        assert run.reserved_microusd == sum(holding)
        assert run.spent_microusd == sum(item.charged_microusd for item in held)
        assert run.steps == run.calls.get("git/push", 0) == len(held)
        assert (run.labels == {"left_house"}) == bool(held)


def test_a_reservation_ends_once():
    run = reserve(session(), PUSH, 10, NOW)
    run, done = finish(run, Held(Reservation("d", run.id, "default", "e", 10, NOW)), Fate.SETTLED, 10)
    for fate in (Fate.SETTLED, Fate.RELEASED, Fate.CHARGED):
        try:
            finish(run, done, fate, 10)
        except WrongStateError:
            continue
        raise AssertionError(fate)


def test_scope_is_a_server_a_tool_or_everything():
    assert in_scope(("*",), "git/log")
    assert in_scope(("git/*",), "git/log")
    assert in_scope(("fs/*", "git/log"), "git/log")
    for scope in ((), ("git/logs",), ("gi/*",), ("log",), ("git",), ("*/log",), ("git/l*",)):
        assert not in_scope(scope, "git/log")
