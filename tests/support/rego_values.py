"""Rego values at random, from a seed: the odd ones more often than life has them."""

from __future__ import annotations

import random

from pdp.engine.builtins.values import Number, RegoObject, RegoSet, Value

NUMBERS = (
    "0", "-0", "0.0", "-0.0", "1", "-1", "1.0", "2", "7", "10", "42", "100", "255", "256", "-255", "1000", "65", "8364",
    "128512", "1114111", "1114112", "55296", "65533", "0.1", "0.5", "1.5", "2.5", "-2.5", "3.14159", "1e3", "1E3",
    "1e+3", "1e-3", "1e21", "1e20", "123456789.125", "0.000001", "0.0000001", "100000", "1000000", "12345678", "2e-7",
    "9007199254740993", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "123456789012345678901234567890", "-123456789012345678901234567890", "1e100", "1e308",
    "1e400", "-1e400", "4.9e-324", "1e-400", "1.7976931348623157e308", "0.30000000000000004", "333333333.33333329",
    "1e23", "5e-1", "1.10", "100.00", "12e1", "3e0", "1767607200000000000", "1767607200.5",
)  # fmt: skip
TEXTS = (
    "", " ", "a", "abc", "ABC", "hello world", "é", "e\u0301", "ß", "İ", "ǅ", "日本語", "👩\u200d🚀", "🏴", "\u200b",
    "\u00ad", "\ufeff", "\u2028", "\x7f", "\x00", "a\x00b", "\n", "\t\r\n", '"', "\\", '\\"', "%", "%%", "%s", "a,b,c",
    ",", ".", "..", "/", "a/b/c", "true", "null", "0", "-1", "1.5", "\U0010ffff", "\ufffd", "\ue000", "\x1b[31m", "`",
    "'", "${x}", "{}", "[]", "x" * 40, "\u017f", "\u212a", "\u0378", "\u1680", "\u3000", "\x85", "\xa0",
)  # fmt: skip
_ALPHABET = "abcXYZ019 _-./:,;%\\\"'\n\tàßλЖ中😀\u0301\u200d"


def text(rng: random.Random) -> str:
    """Give a text."""
    if rng.random() < 0.5:
        return rng.choice(TEXTS)
    return "".join(rng.choices(_ALPHABET, k=rng.randrange(12)))


def number(rng: random.Random) -> Number:
    """Give a number: an odd one, a small or large integer, or a fraction."""
    kind = rng.randrange(6)
    if kind < 2:
        return Number(rng.choice(NUMBERS))
    if kind == 2:
        return Number(str(rng.randint(-300, 300)))
    if kind == 3:
        return Number(str(rng.randint(-(2 ** rng.randrange(1, 90)), 2 ** rng.randrange(1, 90))))
    if kind == 4:
        return Number(f"{rng.randint(-(10**6), 10**6)}.{rng.randrange(10 ** rng.randrange(1, 8))}")
    return Number(f"{rng.randint(-99, 99)}.{rng.randrange(10**5)}e{rng.randint(-30, 30)}")


def integer(rng: random.Random, low: int = -20, high: int = 20) -> Number:
    """Give an integer between `low` and `high`, both included."""
    return Number(str(rng.randint(low, high)))


def value(rng: random.Random, depth: int = 2) -> Value:
    """Give a value of any type."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind < 3:
        return number(rng)
    if kind < 6:
        return text(rng)
    members = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return tuple(members)
    if kind == 7:
        return RegoSet(members)
    keys = members if rng.random() < 0.2 else [text(rng) for _ in members]
    return RegoObject(zip(keys, [value(rng, depth - 1) for _ in members], strict=True))
