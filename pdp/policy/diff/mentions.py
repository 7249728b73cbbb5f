"""What the policies of two bundles read of a fact, and which of its words they name.

Rules: a mark that only ever forbids tightens where it is added; one that a permit asks for, or an exception of a
forbid, however that is put, may widen. Cedar that compares a fact with words of its own names them; where it does
otherwise, and where Rego reads the fact at all, anything may hang on any word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from pdp.engine.statements import ALL, Statement

_CONDITIONS: Final = re.compile(r"\b(?:when|unless)\s*(?://[^\n]*\s*)*\{.*", re.DOTALL)
_EXCEPT: Final = re.compile(
    r"\bunless\b|!|\bif\b|\bisEmpty\b|==(?!\s*[\"\d-])|\bcontains(?:All|Any)?\s*\((?!\s*[\"\[])"
)
"""What may turn a condition round: a word that makes it hold may then keep it from holding."""
_NAMED: Final = r"(?!\s*\.\s*contains(?:All|Any)?\s*\(\s*(?:\"|\[\s*\"))"
"""Behind a fact: what follows is no comparison with words of the policy's own."""


_INPUT: Final = re.compile(
    r"\binput\b(?P<first>\s*(?:\.\s*\w+|\[\s*\"\w+\"\s*\]))?(?P<second>\s*(?:\.\s*\w+|\[\s*\"\w+\"\s*\]))?"
)
"""Where Rego reads the document: by names that stand there, or by what it works out (`input.tool[data.mark]`)."""
_GET: Final = re.compile(
    r"\bobject\s*\.\s*get\s*\(\s*input\s*,\s*(?:\"(?:input|claims|request)\"|\[\s*\"\w+\"(?:\s*,\s*\"\w+\")+\s*\])\s*,"
)
"""The usual way to read what may be missing, by names that stand there."""
_CLAIMED: Final = frozenset({"input", "claims", "request"})
"""Parts of the document that no bundle declares anything of."""


class Mentions:
    """The policies of some bundles, as far as they name things."""

    def __init__(self, bundles: Iterable[Mapping[str, bytes]], statements: Iterable[Statement]) -> None:
        """Look at the Rego of the bundles, and at these policies of Cedar."""
        self._loosening: list[Statement] = []
        self._tightening: list[Statement] = []
        self._reads: set[tuple[str, str]] = set()
        for statement in statements:
            conditions = _CONDITIONS.search(statement.text)
            twofold = conditions is not None and _EXCEPT.search(conditions[0]) is not None
            self._reads |= statement.reads
            if statement.permits or twofold:
                self._loosening.append(statement)
            if not statement.permits or twofold:
                self._tightening.append(statement)
        sources = (data for files in bundles for name, data in files.items() if name.endswith(".rego"))
        self._rego = "\n".join(data.decode("utf-8", "replace") for data in sources)
        self._rego_reads_all = any(
            _is_open(found) for found in _INPUT.finditer(_GET.sub("", _without_comments(self._rego)))
        )

    def may_free(self, group: str, member: str) -> bool:
        """Whether something could be allowed because a tool is in a group, which policies also read as a fact."""
        return self.reads("tool", member) or any(
            f'"{group}"' in statement.text or "\\" in statement.text for statement in self._loosening
        )

    def may_loosen(self, member: str, words: Iterable[str]) -> bool:
        """Whether something could be allowed because these words are in a fact."""
        return self._named(self._loosening, member, words)

    def may_tighten(self, member: str, words: Iterable[str]) -> bool:
        """Whether something could be refused because these words are in a fact."""
        return self._named(self._tightening, member, words)

    def reads(self, part: str, member: str) -> bool:
        """Whether a policy reads this fact: `principal` and `owner`, say."""
        known = {(part, member), (part, ALL), (ALL, ALL)} & self._reads
        return bool(known) or self._in_rego(member)

    def _named(self, statements: Iterable[Statement], member: str, words: Iterable[str]) -> bool:
        otherwise = re.compile(rf"\b{re.escape(member)}\b{_NAMED}")
        literal = [f'"{word}"' for word in words] + ["\\"]  # an escape can spell any word
        return self._in_rego(member) or any(
            otherwise.search(statement.text) or any(word in statement.text for word in literal)
            for statement in statements
        )

    def _in_rego(self, member: str) -> bool:
        return self._rego_reads_all or re.search(rf"\b{re.escape(member)}\b", self._rego) is not None


def _is_open(found: re.Match[str]) -> bool:
    """Whether any fact may be read here: a part of the document is taken whole, or by a name that is worked out."""
    first = re.sub(r"\W", "", found["first"] or "")
    return first not in _CLAIMED and not (first and found["second"])


def _without_comments(rego: str) -> str:
    """Leave out lines of comment; where a raw string may hold such a line, none."""
    return rego if "`" in rego else re.sub(r"(?m)^\s*#.*$", "", rego)
