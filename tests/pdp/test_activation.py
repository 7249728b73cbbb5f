"""Two-phase activation, against workers that refuse, die, answer late or begin in the middle, and other replicas."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pdp.activation import ACTIVE, Activation, Order, Refused, Stage, Step, Verb

WORKERS = 3


def order(sequence: int, name: str = "") -> Order:
    return Order("default", ACTIVE, "b", "", f"{sequence}{name}", sequence, "2026-01-01T00:00:00+00:00")


@dataclass
class Life:
    """One life of a worker: what it was told and has not read, what it said and was not heard."""

    told: deque[Step] = field(default_factory=deque)
    said: deque[tuple[str, str]] = field(default_factory=deque)
    prepared: Order | None = None
    serves: Order | None = None

    def read(self, *, refuse: bool) -> None:
        step = self.told.popleft()
        if step.verb is Verb.PREPARE:
            self.prepared = None if refuse else step.order
            self.said.append(("refused" if refuse else "prepared", step.order.digest))
        elif step.verb is Verb.ABORT:
            self.prepared = None
        elif self.prepared is not None and self.prepared.digest == step.order.digest:
            self.serves, self.prepared = self.prepared, None
            self.said.append(("serving", step.order.digest))
        else:
            self.said.append(("refused", step.order.digest))


class Crew(RuleBasedStateMachine):
    """Workers that live as they like, and a floor that other replicas raise too."""

    @initialize()
    def begin(self) -> None:
        self.floor: Order | None = None
        self.floors: set[str] = set()
        self.next = 1
        self.machine = Activation(self.raise_floor)
        self.lives: dict[int, Life] = {}

    def raise_floor(self, wanted: Order) -> None:
        if self.floor is not None and (
            wanted.sequence < self.floor.sequence
            or (wanted.sequence == self.floor.sequence and wanted.digest != self.floor.digest)
        ):
            raise Refused("too low")
        self.floor = wanted
        self.floors.add(wanted.digest)

    def do(self, steps: list[Step]) -> None:
        for step in steps:
            if step.verb is Verb.END:
                self.die(step.worker)
            elif step.worker in self.lives:
                self.lives[step.worker].told.append(step)

    @rule(worker=st.integers(0, WORKERS - 1))
    def live(self, worker: int) -> None:
        if worker not in self.lives:
            self.lives[worker] = Life()
            self.do(self.machine.joined(worker))

    @rule(worker=st.integers(0, WORKERS - 1))
    def die(self, worker: int) -> None:
        if self.lives.pop(worker, None) is not None:
            self.do(self.machine.gone(worker))

    @rule(worker=st.integers(0, WORKERS - 1), refuse=st.sampled_from([False, False, False, True]))
    def read(self, worker: int, refuse: bool) -> None:
        life = self.lives.get(worker)
        if life is not None and life.told:
            life.read(refuse=refuse)

    @rule(worker=st.integers(0, WORKERS - 1))
    def hear(self, worker: int) -> None:
        life = self.lives.get(worker)
        if life is not None and life.said:
            what, digest = life.said.popleft()
            if what == "refused":
                self.do(self.machine.refused(worker, digest, "it cannot"))
            else:
                self.do(getattr(self.machine, what)(worker, digest))

    @precondition(lambda self: self.machine.stage is Stage.IDLE)
    @rule(rollback=st.booleans(), name=st.sampled_from(["", "'"]))
    def offer(self, rollback: bool, name: str) -> None:
        """Offer a newer bundle, an older one, or another one of the same number."""
        sequence = max(1, self.next - 1) if rollback else self.next
        self.next = max(self.next, sequence + 1)
        self.do(self.machine.begin(order(sequence, name), set(self.lives)))

    @rule()
    def another_replica_is_ahead(self) -> None:
        self.raise_floor(order(self.next, "''"))
        self.next += 1

    @precondition(lambda self: self.machine.stage is not Stage.IDLE)
    @rule()
    def late(self) -> None:
        self.do(self.machine.late())
        assert self.machine.stage is Stage.IDLE

    @rule(worker=st.integers(0, WORKERS - 1))
    def all_but_one_read_and_answer(self, worker: int) -> None:
        for each in set(self.lives) - {worker}:
            while (life := self.lives.get(each)) is not None and (life.told or life.said):
                self.read(each, refuse=False)
                self.hear(each)

    @invariant()
    def nothing_serves_without_a_floor(self) -> None:
        for life in getattr(self, "lives", {}).values():
            assert life.serves is None or life.serves.digest in self.floors

    @invariant()
    def all_serve_one_bundle_but_for_what_they_have_not_read(self) -> None:
        if not hasattr(self, "lives"):
            return
        in_force = self.machine.in_force
        for life in self.lives.values():
            committed = [step.order for step in life.told if step.verb is Verb.COMMIT]
            last = committed[-1] if committed else life.serves
            refused = any(what == "refused" for what, _ in life.said) or life.prepared is None
            assert last == in_force or (refused and life.serves is None)
            assert life.serves is None or in_force is None or life.serves.sequence <= in_force.sequence

    def teardown(self) -> None:
        """Let everybody read and answer: what was begun ends, and all serve what is in force."""
        if not hasattr(self, "lives"):
            return
        for worker in range(WORKERS):
            self.live(worker)
        for _ in range(20):
            for worker in range(WORKERS):
                self.live(worker)
                self.read(worker, refuse=False)
                self.hear(worker)
        assert self.machine.stage is Stage.IDLE
        assert {life.serves for life in self.lives.values()} == {self.machine.in_force}
        assert all(life.prepared is None for life in self.lives.values())


Crew.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCrew = Crew.TestCase


def machine() -> Activation:
    return Activation(lambda _: None)


def verbs(steps: list[Step]) -> list[tuple[int, str]]:
    return [(step.worker, step.verb.value) for step in steps]


def test_all_commit_once_all_have_prepared():
    made, new = machine(), order(1)
    assert verbs(made.begin(new, {0, 1})) == [(0, "prepare"), (1, "prepare")]
    assert made.prepared(0, "1") == []
    assert made.in_force is None
    assert verbs(made.prepared(1, "1")) == [(0, "commit"), (1, "commit")]
    assert made.in_force is new
    made.serving(0, "1")
    assert made.behind == {1}
    made.serving(1, "1")
    assert made.stage is Stage.IDLE


def test_nobody_is_not_everybody():
    made = machine()
    assert made.begin(order(1), set()) == []
    assert made.stage is Stage.PREPARING
    assert made.gone(0) == []
    assert made.in_force is None
    assert verbs(made.joined(0)) == [(0, "prepare")]
    assert verbs(made.prepared(0, "1")) == [(0, "commit")]


def test_one_refusal_is_everybodys():
    made = machine()
    made.begin(order(1), {0, 1})
    made.prepared(0, "1")
    assert verbs(made.refused(1, "1", "it has no memory")) == [(0, "abort"), (1, "abort")]
    assert (made.in_force, made.fault, made.stage) == (None, "it has no memory", Stage.IDLE)


def test_a_floor_that_refuses_is_a_refusal_before_anybody_commits():
    def refuse(_: Order) -> None:
        raise Refused("a newer one came into force")

    made = Activation(refuse)
    made.begin(order(1), {0})
    assert verbs(made.prepared(0, "1")) == [(0, "abort")]
    assert (made.in_force, made.fault) == (None, "a newer one came into force")


def test_who_does_not_answer_in_time_is_ended_and_all_stays_as_it_was():
    made = machine()
    made.begin(order(1), {0, 1})
    made.prepared(0, "1")
    assert verbs(made.late()) == [(0, "abort"), (1, "abort"), (1, "end")]
    assert (made.in_force, made.fault) == (None, "a worker did not prepare it in time")


def test_who_does_not_commit_in_time_is_ended_and_begins_with_what_is_in_force():
    made = machine()
    made.begin(order(1), {0, 1})
    made.prepared(0, "1")
    made.prepared(1, "1")
    made.serving(0, "1")
    assert verbs(made.late()) == [(1, "end")]
    assert made.stage is Stage.IDLE
    assert verbs(made.joined(1)) == [(1, "prepare"), (1, "commit")]


def test_who_cannot_serve_what_is_in_force_is_ended():
    made = machine()
    made.begin(order(1), {0})
    made.prepared(0, "1")
    made.serving(0, "1")
    made.joined(1)
    assert verbs(made.refused(1, "1", "the copy is gone")) == [(1, "end")]


def test_an_answer_about_another_bundle_changes_nothing():
    made = machine()
    made.begin(order(2), {0})
    assert made.prepared(0, "1") == made.serving(0, "1") == made.refused(0, "1", "late") == []
    assert made.stage is Stage.PREPARING
    assert verbs(made.prepared(0, "2")) == [(0, "commit")]


def test_the_same_bundle_is_activated_again_by_other_keys():
    made, first = machine(), order(1)
    made.begin(first, {0})
    made.prepared(0, "1")
    made.serving(0, "1")
    again = replace(first, proved_at="2026-02-01T00:00:00+00:00")
    made.begin(again, {0})
    assert verbs(made.prepared(0, "1")) == [(0, "commit")]
    assert made.in_force is again


def test_two_orders_at_once_are_our_mistake():
    made = machine()
    made.begin(order(1), {0})
    with pytest.raises(RuntimeError):
        made.begin(order(2), {0})
