"""Calls of the built-ins on networks and URIs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from comparing import Arguments, cases, refused
from pdp.engine.builtins.values import RegoObject, RegoSet, Value
from rego_values import text, value


@cases("net.cidr_is_valid")
def _valid(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield (_odd(rng, _spoilt(rng, _network(rng))),)


@cases("net.cidr_expand")
def _expand(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        address, _, _ = _network(rng).partition("/")
        bits = 128 if ":" in address else 32
        given = _odd(rng, _spoilt(rng, f"{address}/{rng.randrange(bits - 4, bits + 1)}", 0.1))
        if not refused("net.cidr_expand", (given,), "16384"):
            made += 1
            yield (given,)


@cases("net.cidr_contains_matches")
def _matches(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        yield _odd(rng, _networks(rng)), _odd(rng, _networks(rng, addresses=True))


@cases("net.cidr_merge")
def _merge(rng: random.Random, count: int) -> Iterator[Arguments]:
    made = 0
    while made < count:
        base = rng.getrandbits(128)
        # Near each other, so that they touch.
        items: list[Value] = [_near(rng, base) for _ in range(rng.randrange(7))]
        if rng.random() < 0.03:
            items.append(value(rng, 0))
        given = _odd(rng, tuple(items) if rng.random() < 0.5 else RegoSet(items))
        if not refused("net.cidr_merge", (given,), "OPA fails"):
            made += 1
            yield (given,)


def _near(rng: random.Random, base: int) -> str:
    roll = rng.random()
    if roll < 0.1:
        return _network(rng)
    if roll < 0.55:
        number = ((base & 0xFFFFFFFF) + rng.randrange(-16, 16) * 2 ** rng.choice((0, 0, 4, 8))) % 2**32
        address = ".".join(str(octet) for octet in number.to_bytes(4))
        if roll < 0.15:
            return f"::ffff:{address}/{rng.randrange(96, 129)}"
        return address if rng.random() < 0.15 else f"{address}/{rng.randrange(20, 33)}"
    number = (base + rng.randrange(-16, 16) * 2 ** rng.choice((0, 0, 4, 8, 64))) % 2**128
    return f"{_ipv6(number, rng)}/{rng.choice((128, 127, 126, 120, 64, rng.randrange(129)))}"


def _network(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.5:
        octets = [rng.choice((0, 1, 10, 127, 128, 192, 254, 255, rng.randrange(256))) for _ in range(4)]
        return ".".join(map(str, octets)) + f"/{rng.choice((0, 8, 16, 24, 31, 32, 33, rng.randrange(40)))}"
    number = rng.getrandbits(128) & rng.choice((2**128 - 1, 2**128 - 2**64, 2**64 - 1, 2**16 - 1, 0))
    if roll < 0.6:
        number = 0xFFFF << 32 | number & 0xFFFFFFFF
    size = rng.choice((0, 32, 64, 95, 96, 97, 120, 127, 128, 129, rng.randrange(140)))
    return f"{_ipv6(number, rng)}/{size}"


def _ipv6(number: int, rng: random.Random) -> str:
    groups = [f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    if rng.random() < 0.2:
        groups = [group.upper().zfill(4) for group in groups]
    if rng.random() < 0.2:
        groups[6:] = [".".join(str(octet) for octet in (number & 0xFFFFFFFF).to_bytes(4))]
    zeros = [at for at, group in enumerate(groups) if not group.strip("0")]
    if zeros and rng.random() < 0.7:
        end = at = rng.choice(zeros)
        while end + 1 in zeros:
            end += 1
        return ":".join(groups[:at]) + "::" + ":".join(groups[end + 1 :])
    return ":".join(groups)


def _networks(rng: random.Random, *, addresses: bool = False) -> Value:
    def one() -> Value:
        item: Value = _spoilt(rng, _network(rng), 0.005)
        if addresses and rng.random() < 0.4 and isinstance(item, str):
            item = item.partition("/")[0]
        roll = rng.random()
        if roll < 0.1:
            return (item, text(rng))
        return value(rng, 1) if roll < 0.11 else item

    kind = rng.randrange(10)
    if kind < 2:
        return one()
    items = [one() for _ in range(rng.randrange(4))]
    if kind < 5:
        return tuple(items)
    return RegoSet(items) if kind < 7 else RegoObject((value(rng, 0), item) for item in items)


def _spoilt(rng: random.Random, whole: str, often: float = 0.3) -> str:
    if rng.random() > often:
        return whole
    at = rng.randrange(len(whole) + 1)
    signs = (
        "",
        "0",
        "1",
        "00",
        ".",
        ":",
        "::",
        "/",
        "%eth0",
        "%",
        " ",
        "-",
        "+",
        "g",
        "x",
        "\uff11",
        "256",
        "fffff",
        "é",
    )
    return whole[:at] + rng.choice(signs) + whole[at + rng.randrange(2) :]


_SCHEMES = ("", "http:", "https:", "HTTP:", "mailto:", "postgres:", "a+b-c.d:", "1a:", ":", "é:", "x_y:", "urn:")
_USERS = ("", "", "", "user@", "user:pw@", "u:p:q@", "a@b@", "%40@", "%zz@", "u;v@", "é@", "a b@", "[@", "@")
_HOSTS = ("", "host", "h.example", "H", "1.2.3.4", "[::1]", "[fe80::1%25en0]", "[fe80::1%25%C3%A9]", "[::ffff:1.2.3.4]",
          "[1.2.3.4]", "[::1", "::1]", "a:b", "a,b:1,c", "a%41", "a%C3%A9", "%zz", "a b", 'a"<>b', "a\\b", "a^", "é", "a[b]",
          "[::1]x", "[fe80::1%25%20]", "[fe80::1%25%2f]", "[fe80::1%en0]", "%25", "a%25b", "[::1%25]", "a+b", "(x)",
          "[v1.a]", "a%20b", "%ff")  # fmt: skip
_PORTS = ("", "", "", ":", ":80", ":x", ":8 0", ":80:90", ":065536", ":%38")
_PATHS = ("", "/", "/a/b", "/a%20b", "/a%2Fb", "/a%2fb", "/é", "/%C3%A9", "/a b", "/a:b", "//", "///", "/a//b", "/%", "/%zz",
          "/!*'()", "/%21", "/a;b,c", "*", "a:b", "a/b:c", "a", ".", "..", "/[x]", "/%5Bx%5D", "/%FF", "/\\", "/a|b", "/^")  # fmt: skip
_ENDS = ("", "", "?", "??", "?q=1", "?q=1?", "?a b", "?%zz", "#", "#f", "#f%20g", "#%zz", "?q#f", "#a#b", "?\x7f", "#\x01",
         "\x00", "?é", "#é", "#%C3", "? #?")  # fmt: skip


@cases("uri.parse", "uri.is_valid")
def _uris(rng: random.Random, count: int) -> Iterator[Arguments]:
    for _ in range(count):
        # The first of each are plain: what is odd comes mostly alone.
        scheme, user, host, port, path, end = (
            rng.choice(parts if rng.random() < 0.3 else parts[:3])
            for parts in (_SCHEMES, _USERS, _HOSTS, _PORTS, _PATHS, _ENDS)
        )
        whole = scheme + (f"//{user}{host}{port}" if rng.random() < 0.8 else "") + path + end
        yield (_odd(rng, whole),)


def _odd(rng: random.Random, usual: Value) -> Value:
    roll = rng.random()
    return value(rng) if roll < 0.02 else text(rng) if roll < 0.03 else usual
