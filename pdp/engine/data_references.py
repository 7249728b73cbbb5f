"""References into `data.json` that a compiled module answers in another way than OPA's interpreter does.

The interpreter's store names by texts alone: there, `data.names[2]` finds the member `"2"` of an object, and
`data.list["2"]` an item of a list. In a module a number is no text, and both are undefined
(https://github.com/open-policy-agent/opa/issues/3711). What a rule means must not depend on who runs it: such a
reference is refused where it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from exequatur.trust.canonical import Json
from pdp.engine.reading import PolicyError

_REFERENCE: Final = re.compile(
    r"""`[^`]*` | \#[^\n]* | (?<![\w.])(?P<path>data (?:\.[A-Za-z_]\w* | \["(?:\\.|[^"\\\n])*"\] | \[[0-9]+\])*)
      | "(?:\\.|[^"\\\n])*" """,
    re.VERBOSE,
)
_PART: Final = re.compile(r'\.(?P<name>\w+)|\["(?P<text>(?:\\.|[^"\\\n])*)"\]|\[(?P<number>[0-9]+)\]')


def check_references(sources: Mapping[str, bytes], data: Json) -> None:
    """Raise `PolicyError` with file and line for a number in an object of `data`, or a text in a list of it.

    `sources` are the `*.rego`.
    """
    for file in sorted(sources):
        text = sources[file].decode("utf-8", "replace")
        for found in _REFERENCE.finditer(text):
            if found["path"] and (wrong := _wrong(data, found["path"])):
                line = text.count("\n", 0, found.start()) + 1
                raise PolicyError(f"`{file}:{line}`: {wrong}")


def _wrong(data: Json, path: str) -> str:
    """Say what is wrong with a reference; empty if nothing is."""
    node = data
    for part in _PART.finditer(path):
        number = part["number"]
        if number is not None and isinstance(node, dict):
            return f'`{path}`: a number is no name in an object of `data.json`: write `["{number}"]`'
        if number is None and isinstance(node, list):
            return f"`{path}`: a text is no place in a list of `data.json`: write a number"
        try:
            node = node[part["name"] or part["text"] if number is None else int(number)]  # type: ignore[index]
        except (LookupError, TypeError, ValueError):
            return ""
    return ""
