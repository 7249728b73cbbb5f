"""Reading the bundle's own files: what they all share.

Rules: every file is strict JSON, and what its published schema says; a member that is not known is an error, and so is
a value of another type; each error names the file, the line and the member, never a value.
"""

from __future__ import annotations

import re
from typing import Any, Final

from exequatur import schemas
from exequatur.trust.canonical import Json, JsonError, JsonLimits, parse

BUNDLE_JSON: Final = JsonLimits(bytes=16 * 2**20, depth=64, keys=500_000, string_bytes=2**20)
"""Signed files may be larger than an action: a registry of a thousand tools is some megabytes."""

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]{1,256}")
_POLICY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/#-]{0,127}")
_OWASP: Final = re.compile(r"ASI(0[1-9]|10)")
_SENTENCE: Final = 500  # characters; longer reasons help nobody, and records keep them


class PolicyError(Exception):
    """The bundle's policy cannot be served. The text says where, with file and line where there is one."""


def is_name(text: object) -> bool:
    """Tell whether this may name an agent, a team, an approver: 1 to 256 characters, none of them a control."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_policy_id(text: object) -> bool:
    """Tell whether this may be a policy's or an obligation's id."""
    return isinstance(text, str) and _POLICY_ID.fullmatch(text) is not None


def is_owasp(text: object) -> bool:
    """Tell whether this is a risk of the OWASP Top 10 for Agentic Applications: `ASI01` to `ASI10`."""
    return isinstance(text, str) and _OWASP.fullmatch(text) is not None


def sentence(text: str) -> str:
    """Make a policy's words fit for a record and a terminal: printable, and at most 500 characters."""
    if len(text) <= _SENTENCE and text.isprintable():
        return text
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_SENTENCE])
    return printable if len(printable) <= _SENTENCE else printable[: _SENTENCE - 1] + "…"


def read_file(name: str, file: str, data: bytes) -> dict[str, Any]:
    """Read a file of the bundle that must be what the published schema `name` says.

    Raises `PolicyError` naming the line and the member.
    """
    try:
        value: Any = parse(data, BUNDLE_JSON)
    except JsonError as error:
        raise PolicyError(f"`{file}`: {error}") from None
    fault = schemas.check(name, value)
    if fault is not None:
        raise PolicyError(fault.located(file, data))
    found: dict[str, Any] = value
    return found


class Fields:
    """The members of one JSON object, each taken once and by type; `close` refuses what is left over."""

    def __init__(self, where: str, value: Json) -> None:
        """Raises `PolicyError` if `value` is not an object; `where` opens each error."""
        if not isinstance(value, dict):
            raise PolicyError(f"{where}: an object is needed here")
        self._where = where
        self._members: dict[str, Json] = value
        self._left = set(value)

    def take(self, name: str, default: Json = None) -> Json:
        """Give a member of any type, or the default."""
        self._left.discard(name)
        return self._members.get(name, default)

    def error(self, name: str, what: str) -> PolicyError:
        """Make the error for a member."""
        return PolicyError(f"{self._where}: `{name}` must be {what}")

    def text(self, name: str, *, default: str | None = None) -> str:
        """Give a name of at most 256 characters; without a default it must be there."""
        value = self.take(name, default)
        if not isinstance(value, str) or not (is_name(value) or (value == "" and default == "")):
            raise self.error(name, "a text of 1 to 256 characters without control characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a list of names, sorted; absent means empty, twice the same is an error."""
        value = self.take(name, [])
        if not isinstance(value, list):
            raise self.error(name, "a list of texts")
        found = [item for item in value if isinstance(item, str) and is_name(item)]
        if len(found) != len(value) or len(set(found)) != len(found):
            raise self.error(name, "a list of different texts, each 1 to 256 characters without control characters")
        return tuple(sorted(found))

    def integer(self, name: str, *, default: int, low: int, high: int) -> int:
        """Give a whole number inside its bounds."""
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def close(self) -> None:
        """Raise `PolicyError` if a member was never taken."""
        if self._left:
            unknown = ", ".join(f"`{sentence(name)}`" for name in sorted(self._left))
            raise PolicyError(f"{self._where}: unknown member {unknown}: remove it, or correct its name")
