"""What each condition of each Cedar policy is, in one action: true, false, an error, or not looked at.

Rules: Cedar itself says it: each part of a scope and each condition is made a policy of its own, and all of them are
put to Cedar at once, on the very entities and context that the engine judges by; `&&` and `||` stop where Cedar stops;
soft forbids are asked only where the hard policies allow, as the engine does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import cedarpy

from exequatur.registry import Registry
from pdp.engine.cedar import CedarEngine, Question
from pdp.engine.document import Facts
from pdp.engine.inventory import Agents
from pdp.engine.schema import cedar_schema
from pdp.policy.cedar_conditions import Condition, Node, Policy

SCOPE: Final = ("principal", "action", "resource")
_POSITION: Final = re.compile(r"\bpolicy(\d+)\b")
_NEVER_VALID: Final = '("a" < 1)'


class Seen(Enum):
    """What a condition was."""

    TRUE = "true"
    FALSE = "false"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy says of one action.

    `mismatch` is the first part of the scope that does not match, or empty; then no condition was looked at. `held` is
    None where it failed, or was not asked. `stopped_at` is the condition, or the alternatives, at which it ended.
    """

    policy: Policy
    mismatch: str = ""
    held: bool | None = None
    asked: bool = True
    conditions: Mapping[int, Seen] = field(default_factory=dict)
    stopped_at: Node | None = None
    negated: bool = False
    """It ended since an `unless` was true."""
    error: str = ""


class Probe:
    """Asks about these policies. Sets of probes are parsed once for each set of policies that is in question."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        """Take all policies of a bundle."""
        self.policies = tuple(policies)
        self._scopes = _parsed(_scope_texts(self.policies))
        self._conditions: dict[tuple[int, ...], cedarpy.PolicySet] = {}

    def ask(self, engine: CedarEngine, facts: Facts) -> tuple[Answer, ...]:
        """Give each policy's answer, in their order."""
        question = engine.question(facts)
        mismatches = self._mismatches(question)
        reached = tuple(n for n, mismatch in enumerate(mismatches) if not mismatch)
        values = self._values(reached, question)
        answers = {n: _answer(self.policies[n], *values[n]) for n in reached}
        if not _allows(answers.values()):
            answers = {
                n: answer if self.policies[n].statement.soft is None else Answer(self.policies[n], asked=False)
                for n, answer in answers.items()
            }
        return tuple(answers.get(n) or Answer(policy, mismatch=mismatches[n]) for n, policy in enumerate(self.policies))

    def _mismatches(self, question: Question) -> list[str]:
        true, _ = _ask(question, self._scopes)
        return [
            next((part for at, part in enumerate(SCOPE) if n * len(SCOPE) + at not in true), "")
            for n in range(len(self.policies))
        ]

    def _values(
        self, reached: tuple[int, ...], question: Question
    ) -> dict[int, tuple[dict[int, Seen], dict[int, str]]]:
        """Give what each condition of these policies is by itself, and the text of each error."""
        if reached not in self._conditions:
            self._conditions[reached] = _parsed(
                f"permit (principal, action, resource) when {{ {condition.text} }};"
                for n in reached
                for condition in self.policies[n].conditions
            )
        true, failed = _ask(question, self._conditions[reached])
        found: dict[int, tuple[dict[int, Seen], dict[int, str]]] = {}
        position = 0
        for n in reached:
            seen: dict[int, Seen] = {}
            errors: dict[int, str] = {}
            for condition in self.policies[n].conditions:
                seen[condition.number] = (
                    Seen.ERROR if position in failed else Seen.TRUE if position in true else Seen.FALSE
                )
                if position in failed:
                    errors[condition.number] = failed[position]
                position += 1
            found[n] = (seen, errors)
        return found


def unreachable(policies: Sequence[Policy], registry: Registry, agents: Agents) -> frozenset[tuple[str, int, Seen]]:
    """Find what no action can make a condition be: (policy id, number of the condition, what it cannot be).

    Cedar's own type checker says so: behind a condition that is always true it does not look at what else there is.
    """
    asked = [(policy, outcome) for policy in policies for outcome in _outcomes(policy)]
    schema = cedarpy.Schema.from_str(cedar_schema(registry, agents))
    text = "\n".join(text for _, (_, _, text) in asked)
    result = cedarpy.validate_policies(text, schema)
    possible = {_position(error.policy_id) for error in result.errors}
    return frozenset(
        (policy.statement.id, number, seen)
        for position, (policy, (number, seen, _)) in enumerate(asked)
        if position not in possible
    )


def _outcomes(policy: Policy) -> list[tuple[int, Seen, str]]:
    """Give for each condition two policies that are valid only if it can never be true, or never be false."""
    head = f"permit ({', '.join(policy.scope)})"
    found: list[tuple[int, Seen, str]] = []

    def visit(node: Node, before: tuple[str, ...]) -> None:
        if isinstance(node, Condition):
            guard = "".join(f"({text}) && " for text in before)
            for seen, then, other in ((Seen.TRUE, _NEVER_VALID, "true"), (Seen.FALSE, "true", _NEVER_VALID)):
                test = f"(if ({node.text}) then {then} else {other})"
                found.append((node.number, seen, f"{head} when {{ {guard}{test} }};"))
            return
        for part in node.parts:
            visit(part, before)
            before = (*before, f"!({part.text})" if node.operator == "||" else part.text)

    before: tuple[str, ...] = ()
    for clause in policy.clauses:
        visit(clause.node, before)
        before = (*before, f"!({clause.node.text})" if clause.negated else clause.node.text)
    return found


def _allows(answers: Iterable[Answer]) -> bool:
    hard = [answer for answer in answers if answer.policy.statement.soft is None]
    return (
        all(not answer.error for answer in hard)
        and any(answer.held and answer.policy.statement.permits for answer in hard)
        and not any(answer.held and not answer.policy.statement.permits for answer in hard)
    )


def _answer(policy: Policy, values: Mapping[int, Seen], errors: Mapping[int, str]) -> Answer:
    """Follow a policy's clauses as Cedar does, given what each condition is by itself."""
    seen: dict[int, Seen] = {condition.number: Seen.SKIPPED for condition in policy.conditions}
    for clause in policy.clauses:
        value, stopped_at = _walk(clause.node, values, seen)
        if value is Seen.ERROR and isinstance(stopped_at, Condition):
            error = errors[stopped_at.number]
            return Answer(policy, conditions=seen, stopped_at=stopped_at, negated=clause.negated, error=error)
        if (value is Seen.TRUE) is clause.negated:
            return Answer(policy, held=False, conditions=seen, stopped_at=stopped_at, negated=clause.negated)
    return Answer(policy, held=True, conditions=seen)


def _walk(node: Node, values: Mapping[int, Seen], seen: dict[int, Seen]) -> tuple[Seen, Node]:
    """Give what a node is, and the condition or the alternatives that made it so."""
    if isinstance(node, Condition):
        seen[node.number] = values[node.number]
        return values[node.number], node
    if node.operator == "!":
        value, cause = _walk(node.parts[0], values, seen)
        return {Seen.TRUE: Seen.FALSE, Seen.FALSE: Seen.TRUE}.get(value, value), cause
    goes_on = Seen.TRUE if node.operator == "&&" else Seen.FALSE
    for part in node.parts:
        value, cause = _walk(part, values, seen)
        if value is not goes_on:
            return value, cause
    return goes_on, node


def _scope_texts(policies: Iterable[Policy]) -> Iterable[str]:
    """Give three policies for each: one for each part of its scope."""
    for policy in policies:
        for at in range(len(SCOPE)):
            parts = [policy.scope[n] if n == at else name for n, name in enumerate(SCOPE)]
            yield f"permit ({', '.join(parts)});"


def _parsed(texts: Iterable[str]) -> cedarpy.PolicySet:
    return cedarpy.PolicySet.from_str("\n".join(texts))


def _ask(question: Question, policies: cedarpy.PolicySet) -> tuple[frozenset[int], dict[int, str]]:
    """Give the positions of the policies that hold, and the texts of those that fail."""
    result = cedarpy.is_authorized(question.request, policies, question.entities, question.schema)
    failed = {_position(text): text.partition("`: ")[2] for text in result.diagnostics.errors}
    return frozenset(_position(name) for name in result.diagnostics.reasons), failed


def _position(text: str) -> int:
    """Give the position in Cedar's own name of a policy, such as `policy7`; -1 where none is named."""
    found = _POSITION.search(text)
    return int(found[1]) if found else -1
