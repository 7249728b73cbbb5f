"""Where our errors say that they are: file and line at the beginning of the sentence."""

from __future__ import annotations

import re
from typing import Final

_WHERE: Final = re.compile(r"`(?P<file>[^`]+?)(?::(?P<line>\d+))?`(?:: | (?=is|are|has))", re.DOTALL)


def located(text: str, file: str = "") -> tuple[str, int, str]:
    """Take a sentence apart into file, line and the rest; without a place it is about line 1 of `file`."""
    found = _WHERE.match(text)
    if found is None:
        return file or "exequatur.json", 1, text
    rest = text[found.end() :] if found["line"] or text[found.end() - 2] == ":" else text
    return found["file"], int(found["line"] or 1), rest
