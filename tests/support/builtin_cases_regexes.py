"""Calls of the built-ins on regular expressions and globs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases, refused
from pdp.engine.builtins.values import Value
from rego_values import integer, number, text, value

_ATOMS = ("a", "b", "c", "é", "日", "😀", ".", "[ab]", "[^a]", "[a-c]", "[[:alpha:]]", "[[:^digit:]]", r"\d", r"\w", r"\s", r"\D",
          r"\W", r"\b", r"\B", "^", "$", r"\A", r"\z", r"\.", r"\x61", r"\x{e9}", r"\pL", r"\p{Lu}", r"\PN", r"\Qa.b\E", r"[\d-]",
          "(?i)A", "(?s).", "(?m)^", "(?m)$", "(?i:B)", "(?:)", "()", r"[^\n]", r"\n", "_", " ", "-", "1", r"\p{Greek}", "[é-日]",
          r"\_", "x")  # fmt: skip
_WRONG = ("(", ")", "[", "]", "*", "+", "?", "{", "}", "{2}", "{,2}", "{1001}", "{2,1}", "**", "\\", r"\8", r"\1", r"\Z", r"\C",
          r"\pX", r"\p{Nope}", "(?P<a", "(?<1>a)", "(?P<é>a)", "(?=a)", "(?!a)", "(?<=a)", "(?z)", "[b-a]", "[[:nope:]]", r"\x",
          r"\x{110000}", r"\k", r"[\b]", "[a", "(?P<n>a)(?P<n>b)", "(a{500}){3}", r"\G", r"\R", r"\h", r"\e", r"\cA", r"\Q", r"\E",
          "(?#c)", "(?i", "|*", "^*", "$+", "(?-)", "(?i-s:a)", "(?U)a+", r"\C+", r"\\C", r"\07", r"\a\f\t\v", "(?^i)", "a++", "a?*")  # fmt: skip
_PIECES = (
    "a",
    "b",
    "ab",
    "c",
    "é",
    "日",
    "😀",
    "A",
    "1",
    " ",
    "-",
    ".",
    "\n",
    "_",
    "",
    "abc",
    "\x00",
    "e\u0301",
    "Σ",
    "\u212a",
    "\u017f",
)
_REPLACEMENTS = ("$0", "$1", "$2", "${1}", "${2}x", "$1x", "$n", "${n}", "$$", "$", "${", "${1", "$10", "$01", "$1_", "x", "é",
                 "$é", "${1}1", "[$0]", "\\1", "${ n}", "$-1", "$m$1", "$\u017f", "$1²", "$999999999999", "😀")  # fmt: skip

_EDITION = "another edition of Unicode"


def _pattern(rng: random.Random, depth: int = 2) -> str:
    pieces: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        roll = rng.random()
        if depth and roll < 0.25:
            inner = _pattern(rng, depth - 1)
            opening = rng.choice(("(", "(", "(?:", "(?P<n>" if "<n>" not in inner + "".join(pieces) else "(", "(?i:"))
            piece = f"{opening}{inner})"
        elif depth and roll < 0.35:
            piece = f"(?:{_pattern(rng, 0)}|{_pattern(rng, 0)})"
        else:
            piece = rng.choice(_ATOMS)
        if rng.random() < 0.3:
            piece += rng.choice(("*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,}", "{0}", "{2,3}?"))
        pieces.append(piece)
    whole = "".join(pieces)
    if depth and rng.random() < 0.15:
        whole += "|" + _pattern(rng, 0)
    return whole


def _any_pattern(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.05:
        return text(rng)
    if roll < 0.15:
        whole = _pattern(rng)
        at = rng.randrange(len(whole) + 1)
        return whole[:at] + rng.choice(_WRONG) + whole[at:]
    return "" if roll < 0.17 else _pattern(rng)


def _subject(rng: random.Random) -> str:
    return "".join(rng.choices(_PIECES, k=rng.randrange(10)))


@cases("regex.split")
def _split(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        given = _odd(rng, _any_pattern(rng)), _odd(rng, _subject(rng))
        if not refused("regex.split", given, _EDITION):
            made += 1
            yield given


@cases("regex.find_n")
def _find(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        limit = integer(rng, -2, 5) if rng.random() < 0.9 else number(rng)
        given = _odd(rng, _any_pattern(rng)), _odd(rng, _subject(rng)), _odd(rng, limit)
        if not refused("regex.find_n", given, _EDITION):
            made += 1
            yield given


@cases("regex.replace")
def _replace(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        replacement = "".join(rng.choices(_REPLACEMENTS, k=rng.randrange(4)))
        given = _odd(rng, _subject(rng)), _odd(rng, _any_pattern(rng)), _odd(rng, replacement)
        if not refused("regex.replace", given, _EDITION):
            made += 1
            yield given


@cases("regex.template_match")
def _template(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        opening, closing = rng.choice(("{}", "<>", "<>", "()", "xx", "[]", "éé", ("<<", ">"), ("", ">"), "||"))
        pieces = []
        for _ in range(rng.randrange(4)):
            pieces.append("".join(rng.choices((*_PIECES, "*", "(", "+", "\\"), k=rng.randrange(3))))
            if rng.random() < 0.7:
                pieces.append(opening + (_pattern(rng, 1) if rng.random() < 0.8 else "[abc]+") + closing)
            if rng.random() < 0.03:
                pieces.append(rng.choice((opening, closing, "a)(b")))
        subject = "".join(piece if rng.random() < 0.6 else rng.choice(_PIECES) for piece in pieces)
        given = _odd(rng, "".join(pieces)), _odd(rng, subject), _odd(rng, opening), _odd(rng, closing)
        if not refused("regex.template_match", given, _EDITION):
            made += 1
            yield given


_TOKENS = (
    "a",
    "b",
    "c",
    "é",
    ".",
    "[ab]",
    "[a-c]",
    "[^a]",
    "[é-日]",
    "[]",
    r"\.",
    r"\*",
    r"\\",
    r"[\]]",
    "[a-b-c]",
    r"[\a-c]",
    " ",
)
_BAD_TOKENS = ("]", "*", "+", "[", "\\", "[-a]", "[a-]", "[b-a]", "[a--]", "**", r"[a\]", "[a-\\]]")


@cases("regex.globs_match")
def _globs(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        one = [_token(rng) for _ in range(rng.randrange(7))]
        other = [token if rng.random() < 0.5 else _token(rng) for token in one]
        if rng.random() < 0.3:
            other.append(_token(rng))
        yield _odd(rng, "".join(one)), _odd(rng, "".join(other))


def _token(rng: random.Random) -> str:
    if rng.random() < 0.01:
        return rng.choice(_BAD_TOKENS)
    return rng.choice(_TOKENS) + rng.choice(("", "", "", "+", "*"))


def _odd(rng: random.Random, usual: Value) -> Value:
    roll = rng.random()
    return value(rng) if roll < 0.01 else text(rng) if roll < 0.02 else usual
