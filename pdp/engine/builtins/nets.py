"""Networks, as OPA has them on Go's `net` (v1/topdown/cidr.go, internal/cidr/merge), with what is odd about them.

An IPv4 address that is written in IPv6 (`::ffff:1.2.3.4`) is its IPv4 address to Go when it is compared, and has the
mask of its own length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pdp.engine.builtins import builtin
from pdp.engine.builtins.cidr_merge import Network, as_ipv4, merged, show
from pdp.engine.builtins.operands import Meter, members, text
from pdp.engine.builtins.values import BuiltinError, Number, RegoObject, RegoSet, Value

_EXPANDED: Final = 2**14
"""Addresses that `net.cidr_expand` gives at most: about 300 KB."""
_PAIRS: Final = 10_000
"""Pairs that `net.cidr_contains_matches` compares at most."""
_MERGED: Final = 10_000
"""Networks that `net.cidr_merge` takes at most."""
_LONGEST: Final = 45
"""Bytes of the longest IPv6 address."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_OCTETS: Final = re.compile(rb"(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})")
_GROUP: Final = re.compile(rb"[0-9a-fA-F]{1,4}")


class Address(NamedTuple):
    """An address of 4 or 16 bytes, and its zone."""

    octets: bytes
    zone: bytes


@builtin("net.cidr_is_valid")
def cidr_is_valid(value: Value) -> Value:
    """Say whether this is a network such as `10.0.0.0/8`; what is not a string is not."""
    return isinstance(value, str) and _network(value) is not None


@builtin("net.cidr_expand")
def cidr_expand(value: Value) -> Value:
    """Give the set of a network's addresses. Refused: a network of more than 2^14, which OPA goes on to give."""
    network = _network(text(value, 1))
    if network is None:
        raise _not_a_network()
    free = 8 * len(network.octets) - network.ones
    if 2**free > _EXPANDED:
        raise BuiltinError("operand 1 must not have more than 16384 addresses")
    first = int.from_bytes(network.octets)
    addresses = (number.to_bytes(len(network.octets)) for number in range(first, first + 2**free))
    return RegoSet([show(address) for address in addresses])


@builtin("net.cidr_contains_matches")
def cidr_contains_matches(networks: Value, candidates: Value) -> Value:
    """Give a pair for each network that contains a candidate: of indices, keys or members, as each side has them.

    Refused: more than 10,000 pairs to compare.
    """
    meter = Meter(_PAIRS)
    found: list[Value] = []
    for network, index in _sides(networks, 1):
        for candidate, other in _sides(candidates, 2):
            meter.spend()
            if _contains(text(network, 1), text(candidate, 1)):
                found.append((index, other))
    return RegoSet(found)


@builtin("net.cidr_merge")
def cidr_merge(value: Value) -> Value:
    """Give the smallest set of networks for an array or set of networks and IPv4 addresses.

    Refused: what OPA dies of, which is networks that merge into one below `100::`; more than 10,000 networks.
    """
    items = members(value, 1)
    if len(items) > _MERGED:
        raise BuiltinError("operand 1 must not hold more than 10000 networks")
    try:
        meter = Meter(_MERGED * 256)
        return RegoSet([str(network) for network in merged([_mergeable(text(item, 1)) for item in items], meter)])
    except (OverflowError, ValueError):
        raise BuiltinError("the networks cannot be merged: OPA fails on them as well") from None


def parse_address(value: bytes) -> Address | None:
    """Read an address as Go's `netip.ParseAddr`, a zone included."""
    sign = re.search(rb"[.:%]", value)
    if sign is None or sign[0] == b"%":
        return None
    if sign[0] == b".":
        octets = _ipv4(value)
        return None if octets is None else Address(octets, b"")
    rest, percent, zone = value.partition(b"%")
    if percent and not zone:
        return None
    octets = _ipv6(rest)
    return None if octets is None else Address(octets, zone)


def _ipv4(value: bytes) -> bytes | None:
    found = _OCTETS.fullmatch(value)
    numbers = [int(octet) for octet in found.groups()] if found else []
    return bytes(numbers) if numbers and max(numbers) <= 255 else None  # noqa: PLR2004 - a byte


def _ipv6(value: bytes) -> bytes | None:
    if len(value) > _LONGEST:
        return None
    left, gap, right = value.partition(b"::")
    before, after = _groups(left, last=not gap), _groups(right, last=True)
    if before is None or after is None:
        return None
    missing = 16 - len(before) - len(after)
    # `::` stands for at least one group, and nothing but it for any.
    if missing < 2 if gap else missing:  # noqa: PLR2004 - bytes of a group
        return None
    return before + bytes(missing) + after


def _groups(value: bytes, *, last: bool) -> bytes | None:
    """Read groups between colons; the last may be an IPv4 address."""
    if not value:
        return b""
    found = b""
    *groups, end = value.split(b":")
    for group in groups:
        if not _GROUP.fullmatch(group):
            return None
        found += int(group, 16).to_bytes(2)
    if _GROUP.fullmatch(end):
        return found + int(end, 16).to_bytes(2)
    octets = _ipv4(end) if last else None
    return None if octets is None else found + octets


def _network(value: str) -> Network | None:
    """Read a network as Go's `ParseCIDR`: what is beyond the mask is taken off."""
    start, slash, size = value.encode().partition(b"/")
    address = parse_address(start) if slash else None
    # Zeros may stand before the length.
    if address is None or address.zone or not re.fullmatch(rb"0*[0-9]{1,3}", size):
        return None
    if len(size) > _LONGEST:
        raise BuiltinError("the length of a network is written with too many zeros")
    bits = 8 * len(address.octets)
    ones = int(size[-3:])
    return None if ones > bits else Network(address.octets, ones, len(address.octets)).masked()


def _mergeable(value: str) -> Network:
    address = parse_address(value.encode())
    if address is None or address.zone:
        network = _network(value)
        if network is None:
            raise _not_a_network()
        return network
    octets = as_ipv4(address.octets)
    if octets is None:
        raise BuiltinError("an IPv6 address needs the length of its prefix")
    # The mask of its class, and the address as it is: OPA does not take off what is beyond the mask.
    return Network(_MAPPED + octets, 8 if octets[0] < 0x80 else 16 if octets[0] < 0xC0 else 24, 4)  # noqa: PLR2004


def _contains(network: str, candidate: str) -> bool:
    outer = _network(network)
    if outer is None:
        raise _not_a_network()
    address = parse_address(candidate.encode())
    if address is not None and not address.zone:
        return outer.contains(address.octets)
    inner = _network(candidate)
    if inner is None:
        raise _not_a_network()
    if outer.is_plain_ipv6() and inner.is_plain_ipv6():
        return outer.ones <= inner.ones and outer.contains(inner.octets)
    return outer.contains(inner.octets) and outer.contains(inner.last())


def _sides(value: Value, position: int) -> Iterator[tuple[Value, Value]]:
    """Give each network with what it is known by; of a pair the first is the network."""
    if isinstance(value, str):
        yield value, value
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield _first(item, position), Number.of(number)
    elif isinstance(value, RegoSet):
        for item in value:
            yield _first(item, position), item
    elif isinstance(value, RegoObject):
        for key, item in value.items():
            yield _first(item, position), key


def _first(item: Value, position: int) -> Value:
    if isinstance(item, tuple) and item:
        return item[0]
    if isinstance(item, str):
        return item
    raise BuiltinError(f"operand {position} must have members that are strings, or arrays that begin with one")


def _not_a_network() -> BuiltinError:
    return BuiltinError("an operand must be a network such as `10.0.0.0/8`")
