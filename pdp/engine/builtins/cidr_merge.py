"""Networks of Go's `net`, and how OPA merges them (internal/cidr/merge): by ranges, split again at powers of two.

Rule: step by step what OPA does, since what it gives for networks that overlap in both families, or are IPv4 written
in IPv6, follows from its steps and from no rule. Where its steps end in a panic, here is an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pdp.engine.builtins.operands import Meter
from pdp.engine.builtins.values import BuiltinError

_MAPPED: Final = bytes(10) + b"\xff\xff"
_IPV4: Final = 4
_IPV6: Final = 16
_LOWEST: Final = {_MAPPED + bytes(4), bytes(16)}
_HIGHEST: Final = {_MAPPED + b"\xff" * 4, b"\xff" * 16}


@dataclass(frozen=True, slots=True)
class Network:
    """Go's `net.IPNet`."""

    octets: bytes
    """The address, of 4 or 16 bytes; of any other number in the midst of a merge."""
    ones: int
    """How many bits of the mask are set."""
    mask_bytes: int
    """The mask's length, 4 or 16: an IPv4 address may have the mask of an IPv6 one."""

    def __str__(self) -> str:
        ipv4 = as_ipv4(self.octets)
        if ipv4 is None and (len(self.octets) != _IPV6 or self.mask_bytes != _IPV6):
            return "<nil>"
        return f"{show(self.octets)}/{self._ones_of(ipv4 or self.octets)}"

    def is_plain_ipv6(self) -> bool:
        """Say whether this is no IPv4 address in disguise."""
        return len(self.octets) == _IPV6 and as_ipv4(self.octets) is None

    def masked(self) -> Network:
        """Take off what is beyond the mask."""
        return Network(_masked(self.octets, self), self.ones, self.mask_bytes)

    def contains(self, address: bytes) -> bool:
        """Say whether the address is in the network; the families do not mix."""
        own = as_ipv4(self.octets) or self.octets
        other = as_ipv4(address) or address
        if len(own) != len(other):
            return False
        free = 8 * len(own) - self._ones_of(own)
        return int.from_bytes(own) >> free == int.from_bytes(other) >> free

    def last(self) -> bytes:
        """Give the last address."""
        size = len(self.octets)
        return (int.from_bytes(self.octets) | (1 << 8 * size - self.ones) - 1).to_bytes(size)

    def range(self) -> tuple[bytes, bytes]:
        """Give the first and the last address, both as IPv6."""
        first = _masked(self.octets, self)
        if as_ipv4(first) is not None:
            first = _MAPPED + first
        last = bytearray(first)
        beyond = ((1 << 8 * self.mask_bytes - self.ones) - 1).to_bytes(self.mask_bytes)
        for number, bits in enumerate(beyond):
            last[_IPV6 - self.mask_bytes + number] |= bits
        return first, bytes(last)

    def _ones_of(self, address: bytes) -> int:
        return self.ones if len(address) == self.mask_bytes else max(0, self.ones - 96)


def as_ipv4(octets: bytes) -> bytes | None:
    """Give the four bytes of an IPv4 address, also when it is written in IPv6."""
    if len(octets) == _IPV4:
        return octets
    return octets[12:] if len(octets) == _IPV6 and octets.startswith(_MAPPED) else None


def show(octets: bytes) -> str:
    """Write an address as Go does."""
    ipv4 = as_ipv4(octets)
    return str(ipaddress.IPv6Address(octets)) if ipv4 is None else ".".join(map(str, ipv4))


def merged(networks: Sequence[Network], meter: Meter) -> list[Network]:
    """Give networks that hold the same addresses, and do not touch. Raises `BuiltinError` where OPA panics."""
    ranges: list[tuple[bytes, bytes, Network | None]] = [(*network.range(), network) for network in networks]
    ranges.sort(key=lambda each: (each[1], each[0]))
    for at in range(len(ranges) - 1, 0, -1):
        (first, last, _), (first_before, last_before, _) = ranges[at], ranges[at - 1]
        if _previous(first) <= last_before:
            ranges[at - 1 : at + 1] = [(min(first, first_before), last, None)]
    found: list[Network] = []
    for first, last, single in ranges:
        found += [single] if single else _networks(first, last, meter)
    return found


def _masked(octets: bytes, network: Network) -> bytes:
    size = network.mask_bytes
    mask = ((1 << 8 * size) - (1 << 8 * size - network.ones)).to_bytes(size)
    if size == _IPV6 and len(octets) == _IPV4 and mask.startswith(b"\xff" * 12):
        mask = mask[12:]
    if size == _IPV4 and len(octets) == _IPV6 and octets.startswith(_MAPPED):
        octets = octets[12:]
    if len(octets) != len(mask):
        raise _panic()
    return bytes(octet & bits for octet, bits in zip(octets, mask, strict=True))


def _previous(address: bytes) -> bytes:
    if address in _LOWEST:
        return address
    start = 12 if as_ipv4(address) else 0
    size = len(address) - start
    return address[:start] + ((int.from_bytes(address[start:]) - 1) % (1 << 8 * size)).to_bytes(size)


def _next(address: bytes) -> bytes:
    if address in _HIGHEST or len(address) != _IPV6:
        return address
    return ((int.from_bytes(address) + 1) % (1 << 128)).to_bytes(_IPV6)


def _networks(first: bytes, last: bytes, meter: Meter) -> list[Network]:
    """Give the networks that hold the range, and nothing else."""
    spanning = _spanning(first, last)
    meter.spend(8 * len(first) - spanning.ones)
    lowest, highest = spanning.range()
    found: list[Network] = []
    if lowest < first:
        _, right = _partition(spanning, _single(_previous(first)))
        if not right:
            raise _panic()
        spanning, *found = right
    if highest > last:
        left, _ = _partition(spanning, _single(_next(last)))
        return found + left
    return [*found, spanning]


def _single(address: bytes) -> Network:
    return Network(address, 32, _IPV4) if as_ipv4(address) else Network(address, 128, _IPV6)


def _spanning(first: bytes, last: bytes) -> Network:
    """Give the smallest network that holds both."""
    size = _IPV4 if as_ipv4(first) else _IPV6
    lowest, highest, ones = int.from_bytes(first), int.from_bytes(last), 8 * size
    while ones > 0 and lowest < highest:
        ones -= 1
        highest &= -(1 << 8 * size - ones)
    octets = highest.to_bytes((highest.bit_length() + 7) // 8)
    if size == _IPV4:
        octets = bytes(10) + octets
    return Network(octets or bytes(size), ones, size)


def _partition(target: Network, exclude: Network) -> tuple[list[Network], list[Network]]:
    """Part a network at an address: what is left of it, and what is right of it, the nearest last."""
    first, last = target.range()
    exclude_first, exclude_last = exclude.range()
    if exclude_last < first:
        return [], [target]
    if last < exclude_first:
        return [target], []
    if target.ones >= exclude.ones:
        return [], []
    size = _IPV4 if as_ipv4(target.octets) else _IPV6
    left: list[Network] = []
    right: list[Network] = []
    lower = int.from_bytes(first)
    start = lower if len(first) == _IPV6 else 0
    ones = target.ones + 1
    upper = start + (1 << 8 * size - ones)
    while exclude.ones >= ones:
        lower_octets, upper_octets = _octets(lower, size), _octets(upper, size)
        if exclude_first >= upper_octets:
            left.append(Network(lower_octets, ones, size))
            matched = upper
        else:
            right.append(Network(upper_octets, ones, size))
            matched = lower
        ones += 1
        if ones > 8 * size:
            break
        lower, upper = matched, matched + (1 << 8 * size - ones)
    return left, right


def _octets(number: int, size: int) -> bytes:
    octets = number.to_bytes((number.bit_length() + 7) // 8)
    if size == _IPV4:
        return bytes(10) + octets
    if len(octets) > _IPV6:
        raise _panic()
    return octets.rjust(_IPV6, b"\0")


def _panic() -> BuiltinError:
    return BuiltinError("the networks cannot be merged: OPA fails on them as well")
