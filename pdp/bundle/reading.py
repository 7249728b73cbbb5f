"""YAML for people, read as strictly as JSON.

Rules: plain scalars mean what JSON means by them, so that `no` is text and `1e3` a number; a member twice, an alias, a
tag, a second document and deep nesting are errors; every error and every value knows its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from exequatur.schemas import escape
from exequatur.trust.canonical import Json, JsonError, parse, quoted
from pdp.engine.reading import PolicyError, sentence

FILE_BYTES: Final = 2**20
"""A thousand cases are half of it; where LibYAML is missing, reading it takes some seconds."""

DEPTH: Final = 64

POINTER: Final = 128
"""The longest pointer whose line is kept, in characters: names may be as long as the file."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS: Final[dict[str, Json]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_WANTED: Final = "a list of cases is needed here, or an object with `cases`"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and the line of each value in it, by its JSON pointer (RFC 6901)."""

    file: str
    value: Json
    lines: Mapping[str, int]

    def where(self, pointer: str) -> str:
        """Give `file:line` of what a pointer names, or of what is nearest around it."""
        while pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return f"{self.file}:{self.lines[pointer]}"


def read_document(file: str, data: bytes) -> Document:
    """Read a file that is one list or one object; raises `PolicyError` with file and line."""
    if len(data) > FILE_BYTES:
        raise PolicyError(f"`{file}`: it has {len(data)} bytes, the limit is {FILE_BYTES}: split the file")
    try:
        return _Reader(file, yaml.parse(data.decode("utf-8"), Loader=_LOADER)).read()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"`{file}:{line}`: not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_of = f":{mark.line + 1}" if mark else ""
        raise PolicyError(f"`{file}{line_of}`: not YAML: {sentence(error.problem or 'it cannot be read')}") from None
    except yaml.YAMLError:
        raise PolicyError(f"`{file}`: not YAML: it holds a character that YAML does not take") from None


class _Reader:
    """Makes values of YAML's events, which come flat: nothing is built that was not looked at first."""

    def __init__(self, file: str, events: Iterator[Any]) -> None:
        self._file = file
        self._events = events
        self._lines: dict[str, int] = {}

    def read(self) -> Document:
        """Read one document that is a list or an object."""
        for kind in (yaml.StreamStartEvent, yaml.DocumentStartEvent):
            event = next(self._events)
            if not isinstance(event, kind):
                raise self._error(event, _WANTED)
        event = next(self._events)
        if not isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            raise self._error(event, _WANTED)
        value = self._value(event, "", 1)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error(event, "a second document: one is taken")
        return Document(self._file, value, self._lines)

    def _until(self, end: type[Any]) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _value(self, event: Any, pointer: str, depth: int) -> Json:
        self._check(event)
        if depth > DEPTH:
            raise self._error(event, "it nests too deep")
        if pointer not in self._lines:
            self._note(pointer, event)
        if isinstance(event, yaml.SequenceStartEvent):
            return [
                self._value(item, f"{pointer}/{number}", depth + 1)
                for number, item in enumerate(self._until(yaml.SequenceEndEvent))
            ]
        if isinstance(event, yaml.MappingStartEvent):
            members: dict[str, Json] = {}
            for key in self._until(yaml.MappingEndEvent):
                self._check(key)
                if not isinstance(key, yaml.ScalarEvent):
                    raise self._error(key, "a member's name must be text")
                if key.value in members:
                    raise self._error(key, f"the member {quoted(key.value)} is there twice: remove one")
                inside = f"{pointer}/{escape(key.value)}"
                self._note(inside, key)
                members[key.value] = self._value(next(self._events), inside, depth + 1)
            return members
        return self._scalar(event)

    def _scalar(self, event: Any) -> Json:
        text = str(event.value)
        if event.style:  # quoted, or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        if not _NUMBER.fullmatch(text):
            return text
        try:
            return parse(text.encode())
        except JsonError:
            raise self._error(event, "a number that no action can carry exactly: put it in quotes") from None

    def _check(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(event, "anchors and aliases are not taken: write the value out")
        if event.tag is not None and event.tag != "!":
            raise self._error(event, "tags are not taken")

    def _note(self, pointer: str, event: Any) -> None:
        """Remember where this is; a member counts from its name on."""
        if len(pointer) <= POINTER:
            self._lines[pointer] = event.start_mark.line + 1

    def _error(self, event: Any, text: str) -> PolicyError:
        return PolicyError(f"`{self._file}:{event.start_mark.line + 1}`: {text}")
