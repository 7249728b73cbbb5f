"""Calls of the built-ins on strings, of digests and of encodings."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases
from pdp.engine.builtins.values import RegoObject, RegoSet, Value
from rego_values import TEXTS, integer, number, text, value

_SHORT = ("", "a", "b", "ab", "aa", "aba", "é", "éa", "日", "日本", "😀", "a😀", ".", "/", "\x00", "a\x00", "\u0301")


@cases("strings.any_prefix_match", "strings.any_suffix_match")
def _affixes(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield _some_texts(rng), _some_texts(rng)


def _some_texts(rng: random.Random) -> Value:
    kind = rng.randrange(20)
    if kind == 0:
        return value(rng)
    if kind < 6:
        return _short(rng)
    items = [_short(rng) if rng.random() < 0.98 else value(rng, 0) for _ in range(rng.randrange(5))]
    return tuple(items) if kind < 13 else RegoSet(items)


def _short(rng: random.Random) -> str:
    return "".join(rng.choices(_SHORT, k=rng.randrange(1, 4))) if rng.random() < 0.8 else text(rng)


def _long(rng: random.Random) -> str:
    return "".join(rng.choices(_SHORT, k=rng.randrange(12)))


@cases("strings.count", "indexof_n")
def _within(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield _odd(rng, _long(rng)), _odd(rng, _short(rng))


@cases("strings.split_n")
def _split_n(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        limit = integer(rng, -6, 6) if rng.random() < 0.8 else number(rng)
        yield _odd(rng, _long(rng)), _odd(rng, _short(rng)), _odd(rng, limit)


@cases("crypto.md5", "crypto.sha1", "crypto.sha256", "hex.encode", "base64url.encode_no_pad", "glob.quote_meta",
       "urlquery.encode")  # fmt: skip
def _one_text(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_odd(rng, text(rng) + "".join(rng.choices("*?\\[]{}!-,ab", k=rng.randrange(6)))),)


@cases("crypto.hmac.md5", "crypto.hmac.sha1", "crypto.hmac.sha256", "crypto.hmac.sha512", "crypto.hmac.equal")
def _two_texts(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        one = text(rng) * rng.choice((1, 1, 1, 30))
        yield _odd(rng, one), _odd(rng, rng.choice((one, text(rng), text(rng) * 30)))


@cases("hex.decode")
def _hex_decode(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        digits = text(rng).encode().hex()
        if rng.random() < 0.3:
            digits = digits.upper()
        yield (_odd(rng, _spoilt(rng, digits, "0fFgG x\u0661")),)


@cases("urlquery.decode", "urlquery.decode_object")
def _query(rng: random.Random, count: int) -> Iterator[Arguments]:
    pieces = ("a", "b", "=", "&", "&", "+", "%20", "%C3%A9", "%c3%a9", "%41", ";", "%3B", "%", "%4", "%zz", "é", "%00",
              "a=b", "a=c&", "%26", "%25", "%f0%9f%98%80", "%ff")  # fmt: skip
    for _ in range(count):
        # What is not valid is a third of this, and not nearly all.
        some = rng.choices(pieces, k=rng.randrange(9))
        if rng.random() < 0.6:
            some = [piece for piece in some if piece not in {";", "%", "%4", "%zz", "%ff"}]
        yield (_odd(rng, "".join(some)),)


@cases("urlquery.encode_object")
def _query_object(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        pairs = [(_key(rng), _query_value(rng)) for _ in range(rng.randrange(5))]
        yield (_odd(rng, RegoObject(pairs)),)


@cases("json.marshal_with_options")
def _marshal(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        options: list[tuple[Value, Value]] = [
            (name, rng.random() < 0.6 if name == "pretty" else rng.choice(("", " ", "\t", "é>", "--")))
            for name in ("pretty", "indent", "prefix")
            if rng.random() < 0.5
        ]
        if rng.random() < 0.1:
            options.append((rng.choice(("pretty", "indent", "prefix", "other", text(rng))), value(rng, 0)))
        yield value(rng, 3), _odd(rng, RegoObject(options))


def _key(rng: random.Random) -> Value:
    return text(rng) if rng.random() < 0.8 else value(rng, 1)


def _query_value(rng: random.Random) -> Value:
    if rng.random() < 0.4:
        return text(rng)
    items = [text(rng) if rng.random() < 0.98 else number(rng) for _ in range(rng.randrange(4))]
    return tuple(items) if rng.random() < 0.5 else RegoSet(items) if rng.random() < 0.95 else value(rng)


def _spoilt(rng: random.Random, whole: str, signs: str) -> str:
    """Change a text here and there, mostly not."""
    if rng.random() < 0.6:
        return whole
    at = rng.randrange(len(whole) + 1)
    sign: str = rng.choice(("", *signs))
    return whole[:at] + sign + whole[at + rng.randrange(2) :]


def _odd(rng: random.Random, usual: Value) -> Value:
    """Give the usual operand, and one of another kind now and then."""
    roll = rng.random()
    return value(rng) if roll < 0.02 else rng.choice(TEXTS) if roll < 0.04 else usual
