"""Calls of `sprintf`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases
from pdp.engine.builtins.values import Number, Value
from rego_values import number, text, value

_VERBS = "vvvddssssfFeEgGxXoObcqqUtTpPwzy%!"


@cases("sprintf")
def _sprintf(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        arguments = tuple(_operand(rng) for _ in range(rng.randrange(4)))
        # Go shows memory where a large integer meets `%w` or `%p`, which is refused here.
        verbs = _VERBS if all(map(_is_small, arguments)) else _VERBS.replace("w", "").replace("p", "")
        pieces = [_directive(rng, verbs) if rng.random() < 0.7 else text(rng) for _ in range(rng.randrange(1, 5))]
        whole = "".join(pieces)
        if rng.random() < 0.02:
            yield value(rng), value(rng)
        else:
            yield whole, arguments


def _is_small(operand: Value) -> bool:
    return not isinstance(operand, Number) or operand.int64() is not None or not operand.text.lstrip("-").isdigit()


def _operand(rng: random.Random) -> Value:
    return rng.choice((number, number, text, value))(rng)


def _directive(rng: random.Random, verbs: str) -> str:
    parts = ["%", "".join(rng.choices("+-# 0", k=rng.choice((0, 0, 0, 1, 1, 2, 3))))]
    if rng.random() < 0.1:
        parts.append(rng.choice(("[1]", "[2]", "[3]", "[9]", "[0]", "[-1]", "[x]", "[]", "[1", "[1]*", "[2]*.[1]*")))
    parts.append(rng.choice(("", "", "", "", "1", "5", "08", "12", "*", "-5", "30")))
    parts.append(rng.choice(("", "", "", ".", ".0", ".1", ".3", ".10", ".*", ".-1", ".20")))
    if rng.random() < 0.05:
        parts.append(rng.choice(("[1]", "[2]", "[5]", "[", "]")))
    parts.append(
        rng.choice(verbs) if rng.random() < 0.97 else rng.choice(("", "é", "日", "😀", "\n", "\x00", "\u200b"))
    )
    return "".join(parts)
