"""Two sets of Cedar policies, by what they say.

Rules: how a policy is written, where it stands and what it is called are no part of its meaning: the same policy under
another id is the same policy. A policy is broader where its scope takes in more or a condition at its top is gone, and
narrower the other way round; about conditions that became other ones nobody guesses. Errors are left aside: a policy
that fails denies, in the old bundle as in the new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from exequatur.trust.canonical import canonical
from pdp.engine.reading import sentence
from pdp.engine.statements import Statement
from pdp.model import Effect
from pdp.policy.cedar_conditions import Condition, Node, take_apart
from pdp.policy.diff.change import Change, Direction, in_both, listed

_NEUTRAL, _TIGHTER, _CHANGED, _WIDER = Direction

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|[0-9]+|&&|\|\||[=!<>]=|::|\S')
_ENTITY: Final = re.compile(r'Action::"(?:[^"\\]|\\.)*"')
_PERMITS: Final = 0
_STRENGTH: Final = {Effect.WARN: 1, Effect.REQUIRE_APPROVAL: 2, None: 3}
_DOES: Final = ("permits", "warns", "wants approval", "forbids")
_SHOWN: Final = 70  # characters of a condition


@dataclass(frozen=True, slots=True)
class _Clause:
    """One condition at the top of a policy: `spelt` has one spelling for one thing, `text` is the author's own."""

    spelt: str
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a policy does (an index of `_DOES`), to what, when, and what it demands."""

    does: int
    principal: frozenset[str]
    """All that it must be."""
    actions: frozenset[str] | None
    """Any of these; None is every one."""
    resource: frozenset[str]
    clauses: tuple[_Clause, ...]
    approvers: frozenset[str]
    obligation: tuple[str, bytes] | None


def policies(old: Sequence[Statement], new: Sequence[Statement]) -> Iterator[Change]:
    """Compare all policies."""
    unchanged = set(map(_as_written, old)) & set(map(_as_written, new))
    before = {each.id: _meaning(each) for each in old if _as_written(each) not in unchanged}
    after = {each.id: _meaning(each) for each in new if _as_written(each) not in unchanged}
    same = {after.pop(name): name for name in before.keys() & after.keys() if before[name] == after[name]}
    if before or after:
        same |= {_meaning(each): each.id for each in new if _as_written(each) in unchanged}
        yield from _renamed(before, after, same)
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            does = before[name].does
            direction = _TIGHTER if does == _PERMITS else _WIDER
            yield Change(f"policy:{name}", direction, f"a policy that {_DOES[does]} is gone")
        elif name not in before:
            does = after[name].does
            direction = _WIDER if does == _PERMITS else _TIGHTER
            yield Change(f"policy:{name}", direction, f"a policy that {_DOES[does]} is new")
        else:
            yield _compared(name, before[name], after[name])


def _as_written(statement: Statement) -> tuple[object, ...]:
    """Give all that decides what a statement means, as it stands."""
    return (statement.id, statement.text, statement.soft, statement.approvers, _obligation(statement))


def _renamed(before: dict[str, _Meaning], after: dict[str, _Meaning], same: Mapping[_Meaning, str]) -> Iterator[Change]:
    """Take out the policies that the other side has too, by whatever name; `same` are some of both."""
    known, now = ({**{what: name for name, what in side.items()}, **same} for side in (before, after))
    for name, what in list(before.items()):
        if what in now:
            del before[name]
            if now[what] in after:
                yield Change(f"policy:{name}", _NEUTRAL, f"it is called `{now[what]}` now")
    for name, what in list(after.items()):
        if what in known:
            del after[name]


def _compared(name: str, old: _Meaning, new: _Meaning) -> Change:
    found = list(_differences(old, new))
    return Change(f"policy:{name}", max(direction for direction, _ in found), "; ".join(text for _, text in found))


def _differences(old: _Meaning, new: _Meaning) -> Iterator[tuple[Direction, str]]:
    """Give what differs; of a policy that permits and now forbids, or the other way round, that alone."""
    if old.does != new.does:
        yield (_TIGHTER if new.does > old.does else _WIDER), f"{_DOES[old.does]} → {_DOES[new.does]}"
        if _PERMITS in (old.does, new.does):
            return
    yield from _of_reach(old, new)
    if _DOES[new.does] != "forbids":  # where nothing may run, nothing is demanded either
        yield from _demands(old, new)


def _of_reach(old: _Meaning, new: _Meaning) -> Iterator[tuple[Direction, str]]:
    for broader, text in _reach(old, new):
        direction = _CHANGED if broader is None else _WIDER if broader is (new.does == _PERMITS) else _TIGHTER
        yield direction, f"{_DOES[new.does]}: {text}" if old.does == new.does else text


def _demands(old: _Meaning, new: _Meaning) -> Iterator[tuple[Direction, str]]:
    gone, came = in_both(sorted(old.approvers), sorted(new.approvers))
    if gone:
        yield _WIDER, f"the approval of {listed(gone)} is not wanted any more"
    if came:
        yield _TIGHTER, f"the approval of {listed(came)} is wanted too"
    if old.obligation != new.obligation:
        if new.obligation is None:
            yield _WIDER, "its obligation is gone"
        else:
            yield (_TIGHTER if old.obligation is None else _CHANGED), f"another obligation: `{new.obligation[0]}`"


def _reach(old: _Meaning, new: _Meaning) -> Iterator[tuple[bool | None, str]]:
    """Give what makes a policy apply to more (True), to less (False), or to something else (None)."""
    for name in ("principal", "resource"):
        one, other = getattr(old, name), getattr(new, name)
        if one != other:
            broader = True if other < one else False if one < other else None
            yield broader, f"{name}: {_all_of(one)} → {_all_of(other)}"
    yield from _actions(old.actions, new.actions)
    gone, came = in_both(old.clauses, new.clauses)
    if _kept(old.clauses, came, new.clauses) and not gone:
        yield from ((False, f"and only {_short(clause)}") for clause in came)
    elif not came and _kept(new.clauses, gone, old.clauses):
        yield from ((True, f"no longer only {_short(clause)}") for clause in gone)
    elif old.clauses != new.clauses:
        before, after = ("; ".join(map(_short, each)) for each in (gone, came))
        yield None, f"another condition: {before} → {after}" if gone and came else "its conditions stand otherwise"


def _kept(fewer: tuple[_Clause, ...], extra: Sequence[_Clause], more: tuple[_Clause, ...]) -> bool:
    """Whether `more` is `fewer`, in its order, with `extra` in between."""
    return fewer != more and tuple(clause for clause in more if clause not in extra) == fewer


def _actions(old: frozenset[str] | None, new: frozenset[str] | None) -> Iterator[tuple[bool, str]]:
    if old == new:
        return
    if old is None or new is None:
        yield new is None, "every action" if new is None else f"{listed(sorted(new))} alone"
        return
    if new - old:
        yield True, f"{listed(sorted(new - old))} too"
    if old - new:
        yield False, f"{listed(sorted(old - new))} no more"


def _all_of(wanted: Iterable[str]) -> str:
    return " ".join(sorted(wanted, reverse=True)) or "any"


def _short(clause: _Clause) -> str:
    text = sentence(clause.text)
    return f"`{text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}`"


def _meaning(statement: Statement) -> _Meaning:
    policy = take_apart(statement)
    principal, action, resource = (_tokens(part)[1:] for part in policy.scope)
    clauses = (clause for each in policy.clauses for clause in _clauses(each.node, negated=each.negated))
    return _Meaning(
        does=_PERMITS if statement.permits else _STRENGTH[statement.soft],
        principal=_wanted(principal),
        actions=_named(action),
        resource=_wanted(resource),
        clauses=tuple(clauses),
        approvers=frozenset(statement.approvers),
        obligation=_obligation(statement),
    )


def _obligation(statement: Statement) -> tuple[str, bytes] | None:
    demanded = statement.obligation
    return None if demanded is None else (demanded.id, canonical(dict(demanded.parameters)))


def _clauses(node: Node, *, negated: bool) -> Iterator[_Clause]:
    """Give what must hold, one by one, or with `negated` what must not."""
    if not isinstance(node, Condition):
        if node.operator == "!":
            yield from _clauses(node.parts[0], negated=not negated)
            return
        if node.operator == ("||" if negated else "&&"):
            for part in node.parts:
                yield from _clauses(part, negated=negated)
            return
    word = "unless " if negated else ""
    yield _Clause(word + _spelt(node), word + node.text)


def _spelt(node: Node) -> str:
    if isinstance(node, Condition):
        return " ".join(_tokens(node.text))
    return f"({node.operator} {' '.join(map(_spelt, node.parts))})"


def _tokens(text: str) -> list[str]:
    """Give what a source is made of, without the commas that stand before a bracket."""
    found = _TOKEN.findall(text)
    return [word for word, then in zip(found, [*found[1:], ""], strict=True) if word != "," or then not in "])}"]


def _wanted(tokens: Sequence[str]) -> frozenset[str]:
    """Give all that a principal or a resource must be: a type, something that it is in, or one thing."""
    at = tokens.index("in") if tokens[:1] == ["is"] and "in" in tokens else len(tokens)
    return frozenset(f"{part[0]} {''.join(part[1:])}" for part in (tokens[:at], tokens[at:]) if part)


def _named(tokens: Sequence[str]) -> frozenset[str] | None:
    """Give the actions and groups of them; an action equals itself and is in itself."""
    if not tokens:
        return None
    return frozenset(_ENTITY.findall("".join(tokens)))
