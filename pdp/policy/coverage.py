"""What a bundle's cases have tried of its policies, in both languages.

Rules: an empty set covers nothing; what was not evaluated is not covered, an operand behind a short circuit too.

Cedar counts each policy, which must have held once, and each condition, which must have been true once and false once.
A condition that the schema makes always true or always false need not be both: Cedar's type checker says so. Soft
forbids count where the hard policies allow, since nobody sees them elsewhere.

Rego counts each rule, which must have held once, and each expression, which must have been evaluated once: that is
OPA's own coverage, from one run of `opa eval --coverage` over all documents. Left out are what has no condition
(`default`, the value of a rule without a body, `some` without a value) and files that end in `_test.rego`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pdp.engine.cedar import CedarEngine
from pdp.engine.document import Facts
from pdp.policy.cedar_probe import Seen, unreachable
from pdp.policy.opening import Opened
from pdp.policy.rego_source import Rego, not_covered
from pdp.policy.trials import Trial

CEDAR: Final = "cedar"
REGO: Final = "rego"


@dataclass(frozen=True, slots=True)
class Point:
    """One thing to be covered: its source, where it begins, and what is missing, empty if nothing is."""

    file: str
    line: int
    text: str
    missing: str


@dataclass(frozen=True, slots=True)
class Covered:
    """One policy: whether it ever held, and its conditions."""

    language: str
    policy: str
    held: Point
    conditions: tuple[Point, ...]

    @property
    def missing(self) -> tuple[Point, ...]:
        """What is not covered."""
        return tuple(point for point in (self.held, *self.conditions) if point.missing)


@dataclass(frozen=True, slots=True)
class Coverage:
    """All policies of a bundle, by file and line."""

    policies: tuple[Covered, ...]

    @property
    def total(self) -> int:
        """How much there is to be covered."""
        return sum(1 + len(policy.conditions) for policy in self.policies)

    @property
    def covered(self) -> int:
        """How much of it is."""
        return self.total - sum(len(policy.missing) for policy in self.policies)

    @property
    def percent(self) -> float:
        """The share that is covered, from 0 to 100; nothing at all is no coverage."""
        return 100 * self.covered / self.total if self.total else 0.0


def measure(opened: Opened, trials: Sequence[Trial]) -> Coverage:
    """Measure what these trials cover. Raises `OpaError` and `PolicyError` where OPA cannot say."""
    facts = [trial.facts for trial in trials if trial.facts is not None]
    policies: list[Covered] = []
    if opened.cedar is not None:
        policies += _cedar(opened, opened.cedar, facts)
    with opened.rego() as rego:
        if rego is not None:
            policies += _rego(rego, facts)
    return Coverage(tuple(sorted(policies, key=lambda policy: (policy.held.file, policy.held.line))))


def _cedar(opened: Opened, engine: CedarEngine, facts: Sequence[Facts]) -> Iterator[Covered]:
    probe = opened.probe()
    held: set[str] = set()
    seen: set[tuple[str, int, Seen]] = set()
    for each in facts:
        for answer in probe.ask(engine, each):
            name = answer.policy.statement.id
            if answer.held:
                held.add(name)
            seen.update((name, number, value) for number, value in answer.conditions.items())
    never = unreachable(probe.policies, opened.snapshot.registry, opened.snapshot.agents)
    for policy in probe.policies:
        name = policy.statement.id
        yield Covered(
            CEDAR,
            name,
            Point(policy.file, policy.line, "", "" if name in held else "never held"),
            tuple(
                Point(policy.file, each.line, each.text, _missing(name, each.number, seen, never))
                for each in policy.conditions
            ),
        )


def _missing(
    policy: str, number: int, seen: set[tuple[str, int, Seen]], never: frozenset[tuple[str, int, Seen]]
) -> str:
    left = [
        value
        for value in (Seen.TRUE, Seen.FALSE)
        if (policy, number, value) not in seen and (policy, number, value) not in never
    ]
    if len(left) > 1:
        failed = (policy, number, Seen.ERROR) in seen
        return "only failed" if failed else "never evaluated"
    return f"never {left[0].value}" if left else ""


def _rego(rego: Rego, facts: Sequence[Facts]) -> Iterator[Covered]:
    rules = rego.rules()
    missed = not_covered(rego.ask(facts, "--coverage"), rules)
    for rule in rules:
        file, line, _ = rule.place
        yield Covered(
            REGO,
            rule.title,
            Point(file, line, "", "never held" if rule.place in missed else ""),
            tuple(
                Point(each.place[0], each.place[1], each.text, "never evaluated" if each.place in missed else "")
                for each in rule.expressions
                if each.counts
            ),
        )
