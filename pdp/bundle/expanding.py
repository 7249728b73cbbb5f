"""A file of cases into single cases: its defaults, and each case's parameters, written out.

Rules: a case is what the published schema says before and after it is written out; a parameter that is not there, or
that nobody uses, is an error; names of members are never written anew; every case knows its file and line.

    defaults: {agent: assistant, tool: notes/read, session: {purpose: tidy}}
    cases:
      - name: "a note is read: ${path}"
        arguments: {path: $path}
        parameters: [{path: /notes/a.md}, {path: /notes/b.md}]
        want: {effect: allow}

A text `$name` becomes the parameter's value, whatever its type; `${name}` inside a text becomes its text; `$$` is `$`.
Without `parameters` a `$` is a `$`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from exequatur import schemas
from exequatur.trust.canonical import Json, quoted
from pdp.bundle.reading import Document, read_document
from pdp.engine.reading import PolicyError

MOST: Final = 10_000
"""Cases in one file, written out: each takes about a tenth of a millisecond to judge, and all must be proved."""

ROOM: Final = 2**20
"""What parameters may write into one case, in characters: four times the largest action."""

_MERGED: Final = ("arguments", "claims", "session", "want")
_WHOLE: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PIECE: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^{}]*)\})")


@dataclass(frozen=True, slots=True)
class Item:
    """One case, written out, and where it stands, as `file:line`."""

    where: str
    value: dict[str, Json]


def read_items(file: str, data: bytes) -> Iterator[Item]:
    """Read a file of cases; raises `PolicyError` with file and line."""
    document = read_document(file, data)
    fault = schemas.check("cases", document.value)
    if fault is not None:
        raise PolicyError(f"`{document.where(fault.pointer)}`: {_said(fault)}")
    defaults, cases, inside = _parts(document)
    count = 0
    for number, case in enumerate(cases):
        where = document.where(f"{inside}/{number}")
        for value in _written_out(where, _merged(defaults, case)):
            count += 1
            if count > MOST:
                raise PolicyError(f"`{where}`: more than {MOST} cases in one file: split it")
            fault = schemas.check("cases", [value])
            if fault is not None:
                raise PolicyError(f"`{where}`: {_said(fault)}")
            yield Item(where, value)


def _parts(document: Document) -> tuple[dict[str, Json], list[dict[str, Json]], str]:
    """Give the defaults, the cases, and the pointer to the cases."""
    whole: Any = document.value  # the schema has seen to its shape
    return ({}, whole, "") if isinstance(whole, list) else (whole.get("defaults", {}), whole["cases"], "/cases")


def _said(fault: schemas.Fault) -> str:
    """Say what is wrong, with the members of the case alone: whoever reads it has the line of the case."""
    members = (
        re.sub(r"^(/cases)?/\d+(/|$)|^/", "", fault.pointer).replace("/", ".").replace("~1", "/").replace("~0", "~")
    )
    return f"{quoted(members) if members else 'the case'} {fault.wanted}" if fault.pointer else str(fault)


def _merged(defaults: dict[str, Json], case: dict[str, Json]) -> dict[str, Json]:
    merged = {**defaults, **case}
    for name in _MERGED:
        default, own = defaults.get(name), case.get(name)
        if isinstance(default, dict) and isinstance(own, dict):
            merged[name] = {**default, **own}
    return merged


def _written_out(where: str, case: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Give the case once for each of its parameters; numbered, where that leaves the name as it was."""
    if "parameters" not in case:
        yield case
        return
    body = {name: value for name, value in case.items() if name != "parameters"}
    listed: Any = case["parameters"]
    for number, parameters in enumerate(listed, start=1):
        writer = _Writer(where, parameters)
        value: dict[str, Json] = {name: writer.write(member) for name, member in body.items()}
        writer.close()
        if value.get("name") == body.get("name"):
            value["name"] = f"{value['name']} #{number}"
        yield value


class _Writer:
    """Puts one set of parameters into a case."""

    def __init__(self, where: str, parameters: dict[str, Json]) -> None:
        self._where = where
        self._parameters = parameters
        self._left = set(parameters)
        self._texts = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in parameters.items()
        }
        self._room = ROOM

    def write(self, value: Json) -> Json:
        if isinstance(value, dict):
            return {name: self.write(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self.write(item) for item in value]
        if not isinstance(value, str):
            return value
        if whole := _WHOLE.fullmatch(value):
            return self._take(whole[1])
        return _PIECE.sub(lambda piece: piece["dollar"] or self._text(piece["name"]), value)

    def close(self) -> None:
        if self._left:
            raise PolicyError(f"`{self._where}`: the parameter {quoted(min(self._left))} is used nowhere in the case")

    def _take(self, name: str) -> Json:
        if name not in self._parameters:
            raise PolicyError(
                f"`{self._where}`: there is no parameter {quoted(name)}: give it to each of `parameters`, or write `$$`"
            )
        self._left.discard(name)
        self._room -= len(self._texts[name])
        if self._room < 0:
            raise PolicyError(f"`{self._where}`: its parameters write more than {ROOM} characters into it: write fewer")
        return self._parameters[name]

    def _text(self, name: str) -> str:
        self._take(name)
        return self._texts[name]
