"""Where the policies of a bundle name a word: a label, a team, a group of tools.

Rules: a mark that only ever forbids tightens where it is added; one that a permit asks for, or an exception of a
forbid, may widen. Rego can use a word for anything. What stands as text in a policy is looked at, what is put together
there is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pdp.engine.snapshot import DATA_FILE
from pdp.engine.statements import Statement

_CEDAR: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_REGO: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`([^`]*)`')
_EXCEPT: Final = re.compile(r"\bunless\b|!")


class Mentions:
    """The words of some bundles' policies."""

    def __init__(self, bundles: Iterable[Mapping[str, bytes]], statements: Iterable[Statement]) -> None:
        """Look at the Rego of the bundles with the data that it reads, and at these policies of Cedar."""
        self._permits: set[str] = set()
        self._loosening: set[str] = set()
        self._tightening: set[str] = set()
        for statement in statements:
            words = set(_CEDAR.findall(statement.text))
            if statement.permits:
                self._permits |= words
            twofold = _EXCEPT.search(statement.text) is not None
            if statement.permits or twofold:
                self._loosening |= words
            if not statement.permits or twofold:
                self._tightening |= words
        self._rego = {word for files in bundles for word in _of_rego(files)}

    def permitted(self, word: str) -> bool:
        """Whether a permit of Cedar names it."""
        return word in self._permits

    def may_loosen(self, word: str) -> bool:
        """Whether something could be allowed because of it."""
        return word in self._loosening or word in self._rego

    def may_tighten(self, word: str) -> bool:
        """Whether something could be refused because of it."""
        return word in self._tightening or word in self._rego


def _of_rego(files: Mapping[str, bytes]) -> Iterator[str]:
    sources = [data for name, data in files.items() if name.endswith(".rego")]
    for source in sources:
        for one, other in _REGO.findall(source.decode("utf-8", "replace")):
            yield one or other
    if sources and DATA_FILE in files:
        yield from _texts(json.loads(files[DATA_FILE]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from _texts(member)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
