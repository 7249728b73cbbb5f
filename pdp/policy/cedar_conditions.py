"""Cedar policies taken apart: scope, clauses, and in them the single conditions, each with its source and line.

Rules: what cannot be taken apart further is one condition; text is the author's own, taken from where it stands; `&&`
and `||` are followed into brackets and under `!`, since authors write `(a && b) || (c && d)`; an `if` is one condition.
What comes in has been parsed by Cedar already, so that brackets match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pdp.engine.statements import Statement

_TOKEN: Final = re.compile(r'\s+|//[^\n\r]*|(?P<kept>"(?:[^"\\]|\\.)*"|&&|\|\||[A-Za-z_]\w*|.)', re.DOTALL)
_PARTS: Final = 3  # principal, action, resource


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: its number in the policy, its source in one line, and the file's line where it begins."""

    number: int
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions under `&&`, `||` or `!`, as `operator` says, from left to right."""

    operator: str
    parts: tuple[Node, ...]
    text: str
    line: int


Node: TypeAlias = Condition | Joined


@dataclass(frozen=True, slots=True)
class Clause:
    """A `when`, or an `unless` if it is `negated`."""

    negated: bool
    node: Node


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `scope` is what it says of principal, action and resource; `conditions` are those of all clauses."""

    statement: Statement
    file: str
    line: int
    scope: tuple[str, ...]
    clauses: tuple[Clause, ...]
    conditions: tuple[Condition, ...]


def take_apart(statement: Statement) -> Policy:
    """Find a policy's conditions."""
    return _Reader(statement).read()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


class _Reader:
    """Reads one statement; a span of tokens is a slice of the list."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._source = statement.text
        file, _, line = statement.where.strip("`").rpartition(":")
        self._file, self._line = file, int(line)
        self._tokens = [
            _Token(token["kept"], token.start(), token.end())
            for token in _TOKEN.finditer(statement.text)
            if token["kept"] is not None
        ]
        self._conditions: list[Condition] = []

    def read(self) -> Policy:
        at = next(n for n, token in enumerate(self._tokens) if token.text in ("permit", "forbid"))
        scope, at = self._bracketed(at + 1)
        clauses: list[Clause] = []
        while self._tokens[at].text in ("when", "unless"):
            negated = self._tokens[at].text == "unless"
            body, at = self._bracketed(at + 1)
            clauses.append(Clause(negated, self._node(body)))
        parts = tuple(self._text(part) for part in _split(scope, ","))[:_PARTS]
        return Policy(self._statement, self._file, self._line, parts, tuple(clauses), tuple(self._conditions))

    def _bracketed(self, at: int) -> tuple[Sequence[_Token], int]:
        """Give what is inside the brackets that open here, and where it goes on behind them."""
        depth, end = 0, at
        while True:
            depth += _depth(self._tokens[end])
            end += 1
            if depth == 0:
                return self._tokens[at + 1 : end - 1], end

    def _node(self, tokens: Sequence[_Token]) -> Node:
        text, line = self._text(tokens), self._line_of(tokens)
        if tokens[0].text != "if":
            for operator in ("||", "&&"):
                parts = _split(tokens, operator)
                if len(parts) > 1:
                    return Joined(operator, tuple(self._node(part) for part in parts), text, line)
            if _is_bracketed(tokens):
                return self._node(tokens[1:-1])
            if tokens[0].text == "!" and _is_bracketed(tokens[1:]):
                return Joined("!", (self._node(tokens[2:-1]),), text, line)
        condition = Condition(len(self._conditions), text, line)
        self._conditions.append(condition)
        return condition

    def _text(self, tokens: Sequence[_Token]) -> str:
        """Give the source of these tokens in one line, without comments."""
        found, end = "", tokens[0].start if tokens else 0
        for token in tokens:
            found += " " * (token.start > end) + token.text
            end = token.end
        return found

    def _line_of(self, tokens: Sequence[_Token]) -> int:
        return self._line + self._source.count("\n", 0, tokens[0].start)


def _depth(token: _Token) -> int:
    return (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))


def _split(tokens: Sequence[_Token], separator: str) -> list[Sequence[_Token]]:
    """Split where the separator stands outside of all brackets."""
    parts: list[Sequence[_Token]] = []
    depth = start = 0
    for at, token in enumerate(tokens):
        depth += _depth(token)
        if token.text == separator and depth == 0:
            parts.append(tokens[start:at])
            start = at + 1
    return [part for part in (*parts, tokens[start:]) if part]


def _is_bracketed(tokens: Sequence[_Token]) -> bool:
    """Whether one pair of round brackets is around all of it."""
    if len(tokens) < _PARTS or tokens[0].text != "(":
        return False
    depth = 0
    for at, token in enumerate(tokens):
        depth += _depth(token)
        if depth == 0:
            return at == len(tokens) - 1
    return False
