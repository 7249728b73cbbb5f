"""One form for policy files: Cedar by Cedar's own formatter, Rego by OPA's, JSON by two spaces a level.

Rules: formatting changes how a file looks and nothing else: comments stay, members keep their order, what a file says
is compared before and after; in JSON, what is on one line stays there if it fits, and a list of several items a line
stays one; a file that cannot be read is left alone and said; cases are the author's own prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import cedarpy

from exequatur.trust.canonical import JsonError, parse
from pdp.bundle.build import rego_folder, run_opa
from pdp.engine.cedar_text import SourceLimits, Tokens, sources
from pdp.engine.reading import BUNDLE_JSON, PolicyError, sentence

_WIDTH: Final = 80
_INDENT: Final = 4
_JSON_INDENT: Final = 2
_JSON_WIDTH: Final = 118
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_CLOSING: Final = {"[": "]", "{": "}"}
_SPACED: Final = {",": ", ", ":": ": "}
_COMMENT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|(?P<comment>//[^\n]*)')
_HEADER: Final = re.compile(r"(?:[ \t]*(?://[^\n]*)?\n)*?(?:[ \t]*//[^\n]*\n)[ \t]*\n(?=\s*(?://|@|permit|forbid))")


def formatted(files: Mapping[str, bytes], opa: Path | None) -> tuple[dict[str, bytes], list[str]]:
    """Give the files that look otherwise when formatted, and a sentence for each that cannot be; raises `OpaError`."""
    found: dict[str, bytes] = {}
    faults: list[str] = []
    for name in sorted(files):
        write = _WRITERS.get(Path(name).suffix)
        try:
            if write is not None:
                found[name] = write(name, files[name])
        except PolicyError as error:
            faults.append(str(error))
    if any(name.endswith(".rego") for name in files):
        _rego(files, opa, found, faults)
    return {name: data for name, data in found.items() if data != files[name]}, faults


def _cedar(name: str, data: bytes) -> bytes:
    before = [_words(source.tokens) for source in sources({name: data}, SourceLimits())]
    text = data.decode("utf-8").replace("\r\n", "\n")
    if not before:
        return data
    # Cedar's formatter takes away the line between a file's own comment and its first policy.
    header = _header(text)
    try:
        body = cedarpy.format_policies(text[len(header) :], _WIDTH, _INDENT)
    except ValueError as error:
        raise PolicyError(f"`{name}`: {sentence(str(error))}") from None
    made = (header.rstrip() + "\n\n" if header else "") + body.strip() + "\n"
    after = [_words(source.tokens) for source in sources({name: made.encode()}, SourceLimits())]
    if before != after or _comments(text) != _comments(made):
        raise PolicyError(f"`{name}`: left as it is: Cedar's formatter would change what it says")
    return made.encode("utf-8")


def _header(text: str) -> str:
    header = ""
    while found := _HEADER.match(text, len(header)):
        header = text[: found.end()]
    return header


def _words(tokens: Tokens) -> list[str]:
    return [token[0] for token in tokens if token[0] != ","]


def _comments(text: str) -> list[str]:
    return sorted(found["comment"].rstrip() for found in _COMMENT.finditer(text) if found["comment"])


def _json(name: str, data: bytes) -> bytes:
    try:
        before = parse(data, BUNDLE_JSON)
    except JsonError as error:
        raise PolicyError(f"`{name}`: {error}") from None
    text = data.decode("utf-8")
    made = (_Layout(text).value(0)[0] + "\n").encode("utf-8")
    if parse(made, BUNDLE_JSON) != before:
        raise PolicyError(f"`{name}`: left as it is: it would not be the same")
    return made


class _Layout:
    """Lays out JSON that has been read: a list or an object of one line stays on one, as far as it fits."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces = list(_PIECE.finditer(text))

    def value(self, at: int, depth: int = 0) -> tuple[str, int]:
        """Give the value that begins at a piece, and which piece comes after it."""
        opened = self._pieces[at][0]
        if opened not in _CLOSING:
            return opened, at + 1
        end = self._end(at)
        source = self._text[self._pieces[at].start() : self._pieces[end].start()]
        flat = self._flat(at, end)
        if end == at + 1 or ("\n" not in source and len(flat) + depth * _JSON_INDENT <= _JSON_WIDTH):
            return flat, end + 1
        items: list[str] = []
        first, at = at, at + 1
        while at < end:
            name = ""
            if opened == "{":
                name, at = f"{self._pieces[at][0]}: ", at + 2
            item, at = self.value(at, depth + 1)
            items.append(name + item)
            at += self._pieces[at][0] == ","
        if source.count("\n") <= len(items) and not any(p[0] in _CLOSING for p in self._pieces[first + 1 : end]):
            items = _filled(items, _JSON_WIDTH - _JSON_INDENT * (depth + 1))
        margin = "\n" + " " * _JSON_INDENT * depth
        inner = margin + " " * _JSON_INDENT
        return f"{opened}{inner}{f',{inner}'.join(items)}{margin}{_CLOSING[opened]}", end + 1

    def _end(self, at: int) -> int:
        depth = 0
        while True:
            depth += (self._pieces[at][0] in _CLOSING) - (self._pieces[at][0] in _CLOSING.values())
            if depth == 0:
                return at
            at += 1

    def _flat(self, at: int, end: int) -> str:
        return "".join(_SPACED.get(piece[0], piece[0]) for piece in self._pieces[at : end + 1])


def _filled(items: list[str], width: int) -> list[str]:
    """Put as many items on a line as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines


def _rego(files: Mapping[str, bytes], opa: Path | None, found: dict[str, bytes], faults: list[str]) -> None:
    """Let OPA format all files at once; those that it cannot read are said one by one."""
    with rego_folder(files, opa) as (folder, program):
        names = sorted(name for name in files if name.endswith(".rego"))
        done = run_opa(program, ["fmt", "-w", *names], folder)
        for name in names if done.returncode else ():
            alone = run_opa(program, ["fmt", "-w", name], folder)
            if alone.returncode:
                faults.append(_said(name, alone.stderr))
        found.update({name: (folder / name).read_bytes() for name in names})


def _said(name: str, output: str) -> str:
    place = re.search(rf"{re.escape(name)}:(\d+): (?:\w+_error: )?([^\n]+)", output)
    return f"`{name}:{place[1]}`: {sentence(place[2])}" if place else f"`{name}`: {sentence(output.strip())}"


_WRITERS: Final[Mapping[str, Callable[[str, bytes], bytes]]] = {".cedar": _cedar, ".json": _json}
