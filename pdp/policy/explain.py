"""Why an action was answered as it was: which policies applied, and where each of the others ended.

Rules: each engine's own evaluator says so (`pdp/policy/cedar_probe.py`, OPA's coverage and trace), nobody guesses;
values are shown, since whoever asks gave them. What is shown of Rego is what the decision's entry points are made of:
rules that give an entry its id, and the entry points themselves; the rules that they ask stand below them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pdp.engine.document import Facts, rego_document
from pdp.engine.manifest import EngineSpec
from pdp.model import Effect, Verdict
from pdp.policy.cedar_conditions import Clause, Condition, Node
from pdp.policy.cedar_probe import Answer
from pdp.policy.opening import Opened
from pdp.policy.rego_source import ENGINES, Rego, Rule
from pdp.policy.rego_trace import Trace, short, trace
from pdp.policy.trials import Trial

APPLIED: Final = "applied"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
UNASKED: Final = "not asked"

_MEMBERS: Final = frozenset({"allow", "deny", "warn", "require_approval", "obligations"})
_ELSEWHERE: Final = {"principal": "agents", "action": "actions", "resource": "resources"}
_PATH: Final = re.compile(r"\b(?:context|principal|resource|input)(?:\.[A-Za-z_]\w*)+")
_DEEP: Final = 3  # rules that are asked by rules that are asked


@dataclass(frozen=True, slots=True)
class Because:
    """Where a policy ended: its source and place, what that was, and the values that it read, as JSON."""

    text: str
    file: str
    line: int
    was: str
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Why:
    """One policy. `does` is what it does where it applies; `asked` are rules that the place where it ended asks."""

    policy: str
    does: str
    file: str
    line: int
    state: str
    because: Because | None = None
    asked: tuple[Why, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineWhy:
    """One engine: its verdict, its policies, and how many of them are about other things than this action."""

    spec: EngineSpec
    verdict: Verdict
    policies: tuple[Why, ...]
    elsewhere: Mapping[str, int] = field(default_factory=dict)


def explain(opened: Opened, trial: Trial) -> tuple[EngineWhy, ...]:
    """Explain what each engine said; empty where none was asked. Raises `OpaError` and `PolicyError`."""
    if trial.facts is None:
        return ()
    return tuple(_engine(opened, spec, verdict, trial.facts) for spec, verdict in trial.verdicts)


def _engine(opened: Opened, spec: EngineSpec, verdict: Verdict, facts: Facts) -> EngineWhy:
    if spec.engine in ENGINES:
        with opened.rego() as rego:
            if rego is None:
                raise RuntimeError("an engine for Rego judged, and there is none")
            return EngineWhy(spec, verdict, _rego(rego, spec, facts))
    if opened.cedar is None:
        raise RuntimeError("Cedar judged, and there is none")
    answers = opened.probe().ask(opened.cedar, facts)
    question = opened.cedar.question(facts)
    document = {
        "context": json.loads(question.request["context"]),
        "resource": question.resource["attrs"],
        "principal": _attributes(str(question.entities), question.request["principal"]),
    }
    elsewhere = Counter(_ELSEWHERE[answer.mismatch] for answer in answers if answer.mismatch)
    return EngineWhy(
        spec, verdict, tuple(_cedar(answer, document) for answer in answers if not answer.mismatch), dict(elsewhere)
    )


def _attributes(entities: str, uid: Mapping[str, str]) -> dict[str, Any]:
    return next((each["attrs"] for each in json.loads(entities) if each["uid"] == uid), {})


def _cedar(answer: Answer, document: Mapping[str, Any]) -> Why:
    statement, policy = answer.policy.statement, answer.policy
    does = "permits" if statement.permits else _DOES[statement.soft]
    if answer.held:
        return Why(statement.id, does, policy.file, policy.line, APPLIED)
    if not answer.asked:
        return Why(statement.id, does, policy.file, policy.line, UNASKED)
    node = answer.stopped_at
    if node is None:
        raise RuntimeError("a policy ended nowhere")
    was = "failed: " + answer.error if answer.error else "was true" if answer.negated else "was false"
    if isinstance(node, Condition) and answer.conditions[node.number].value in ("true", "false") and not answer.error:
        was = f"was {answer.conditions[node.number].value}"
    because = Because(_clause(node, answer.policy.clauses), policy.file, node.line, was, _values(node.text, document))
    return Why(statement.id, does, policy.file, policy.line, FAILED if answer.error else STOPPED, because)


_DOES: Final = {None: "forbids", Effect.WARN: "warns", Effect.REQUIRE_APPROVAL: "wants approval"}


def _clause(node: Node, clauses: Sequence[Clause]) -> str:
    """Give the source of a condition, with `unless` where it is in one."""
    inside = next((clause for clause in clauses if node in _nodes(clause.node)), None)
    return f"unless {node.text}" if inside is not None and inside.negated else node.text


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    if not isinstance(node, Condition):
        for part in node.parts:
            yield from _nodes(part)


def _rego(rego: Rego, spec: EngineSpec, facts: Facts) -> tuple[Why, ...]:
    traced = trace(rego, facts)
    document = {"input": rego_document(facts)}
    entry = spec.entrypoint.replace("/", ".")
    shown = [rule for rule in traced.rules if rule.policy or rule.name == entry or _last(rule) in _MEMBERS]
    return tuple(_rule(rule, traced, document, _DEEP) for rule in shown)


def _rule(rule: Rule, traced: Trace, document: Mapping[str, Any], depth: int) -> Why:
    file, line, _ = rule.place
    held, ended = traced.held(rule), traced.failures.get(rule.place)
    state = APPLIED if held else UNASKED if held is None else STOPPED
    because = None
    asked: tuple[Why, ...] = ()
    if held is False and ended is not None:
        tries = "was not true" if ended.tries == 1 else f"was never true in {ended.tries} tries"
        values = (*_values(ended.text, document), *(ended.values if ended.tries == 1 else ()))
        because = Because(ended.text, ended.place[0], ended.place[1], tries, _different(values))
        if depth:
            # What holds explains why a `not` does not, and nothing else.
            relevant = (each for each in _asked(ended.text, rule, traced.rules) if _explains(ended.text, each, traced))
            asked = tuple(_rule(each, traced, document, depth - 1) for each in relevant)
    return Why(rule.title, _last(rule) if rule.policy else "", file, line, state, because, asked)


def _explains(text: str, rule: Rule, traced: Trace) -> bool:
    held = traced.held(rule)
    return held is text.startswith("not ") if held is not None else False


def _asked(text: str, by: Rule, rules: Sequence[Rule]) -> Iterator[Rule]:
    """Find the rules whose name stands in an expression."""
    code = re.sub(r'"(?:[^"\\]|\\.)*"|`[^`]*`', "", text)
    for rule in rules:
        package, _, name = rule.name.rpartition(".")
        near = name if package == by.name.rpartition(".")[0] else f"{package.rpartition('.')[2]}.{name}"
        if rule.name != by.name and re.search(rf"(?<![\w.]){re.escape(near)}(?![\w.])", code):
            yield rule


def _last(rule: Rule) -> str:
    return rule.name.rpartition(".")[2]


def _values(text: str, document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Look up what an expression names: `context.input.path` and the like."""
    found = []
    for path in dict.fromkeys(_PATH.findall(text)):
        value: Any = document
        walked: list[str] = []
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
            walked.append(name)
        if len(walked) > 1:
            found.append((".".join(walked), short(value)))
    return _different(tuple(found))


def _different(values: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(dict(values).items())
