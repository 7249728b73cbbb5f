"""Which rules of a bundle's Rego held for one document, and at which expression the others ended.

Rules: OPA says so, in one run with coverage (a rule that held has its head covered) and one with its trace of failures:
coverage evaluates three times, and each failure would count thrice. Indexing and early exit are off, so that a rule
that an index would leave out says why it does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pdp.engine.document import Facts
from pdp.policy.rego_source import Place, Rego, Rule, not_covered

_FLAGS: Final = ("--disable-indexing", "--disable-early-exit")
_SHORT: Final = 80  # characters


@dataclass(frozen=True, slots=True)
class Ended:
    """The expression that a rule came furthest to, how often it was tried, and the variables of the last try."""

    text: str
    place: Place
    tries: int
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened, rule by rule."""

    rules: tuple[Rule, ...]
    missed: frozenset[Place]
    """Heads that did not hold, and expressions that were not evaluated."""
    failures: Mapping[Place, Ended]
    """Where each rule ended, by the rule's place."""

    def held(self, rule: Rule) -> bool | None:
        """Whether a rule held; None if nothing asked it."""
        if rule.place not in self.missed:
            return True
        return False if rule.place in self.failures else None


def trace(rego: Rego, facts: Facts) -> Trace:
    """Trace one document. Raises `PolicyError` where OPA cannot say."""
    rules = rego.rules()
    missed = not_covered(rego.ask([facts], "--coverage", *_FLAGS), rules)
    events = rego.ask([facts], "--explain=fails", *_FLAGS).get("explanation") or ()
    return Trace(rules, frozenset(missed), _failures(events, rules))


def short(value: Any) -> str:
    """Give a value as JSON that fits into a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _failures(events: Sequence[dict[str, Any]], rules: Sequence[Rule]) -> dict[Place, Ended]:
    known = {rule.place: rule for rule in rules}
    entered: dict[int, Rule] = {}
    furthest: dict[Place, list[dict[str, Any]]] = {}
    for event in events:
        if event["Op"] == "Enter" and (rule := known.get(_place(event))) is not None:
            entered[event["QueryID"]] = rule
        elif event["Op"] == "Fail" and (rule := entered.get(event["QueryID"])) is not None:
            before = furthest.setdefault(rule.place, [])
            if before and before[0]["Node"]["index"] < event["Node"]["index"]:
                before.clear()
            if not before or before[0]["Node"]["index"] == event["Node"]["index"]:
                before.append(event)
    return {place: _ended(known[place], failed) for place, failed in furthest.items()}


def _ended(rule: Rule, failed: Sequence[dict[str, Any]]) -> Ended:
    """Name the expression of the source that holds where it failed: OPA takes expressions apart."""
    place = _place(failed[-1])
    inside = [each for each in rule.expressions if each.place <= place]
    text, at = (inside[-1].text, inside[-1].place) if inside else (rule.title, rule.place)
    return Ended(text, at, len(failed), tuple(_variables(failed[-1])))


def _variables(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the variables that the author has named."""
    names = event.get("LocalMetadata") or {}
    for local in event.get("Locals") or ():
        name = names.get(local["name"], {}).get("name", "")
        if name and not name.startswith(("__", "$")):
            yield name, short(_plain(local))


def _plain(term: Any) -> Any:
    """Give a term of OPA's as JSON."""
    kind, value = term["type"], term["value"]
    if kind in ("array", "set"):
        return [_plain(item) for item in value]
    if kind == "object":
        return {str(_plain(key)): _plain(item) for key, item in value}
    return value if kind in ("string", "number", "boolean", "null") else f"({kind})"


def _place(event: dict[str, Any]) -> Place:
    at = event["Location"]
    return at["file"].removeprefix("./").lstrip("/"), at["row"], at["col"]
