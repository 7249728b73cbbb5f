"""Who may send what out of a pod, by user id: `exequatur sidecar fence --free-uid UID ... [--agent-may CIDR:PORT ...]`.

Containers of a pod share one network: without this, whatever user the agent runs as reaches what the sidecar reaches.
Run once before all others, as root with NET_ADMIN, which no container of the pod has later. Rules:
- A packet belongs to the user who made its socket. Free users may send anything; everybody else only to the pod itself,
  to the pairs of network and port that were given, and to the resolvers that were given.
- A connection is judged when it is opened, by its user alone. What conntrack says counts for nobody's packets and for
  answers: a UDP socket that binds the port that the sidecar has just left must not inherit its way out.
- Nobody's packets are the kernel's own: neighbour discovery, answers to pings, the last packets of a TCP socket that
  was closed. A socket that the kernel makes for a user's is nobody's too: so none of them opens a connection.
- Who may call the agent is not said here: the caller is no user of the pod. TCP connections from outside are answered.
- What is refused is refused at once, so that an agent need not wait to learn it.
"""

from __future__ import annotations

import argparse
import ipaddress
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NoReturn

LOADED, USAGE, UNAVAILABLE = 0, 2, 69
"""Exit codes: the rules are in force; the call was wrong; they could not be loaded."""

TABLE: Final = "exequatur"
NOBODY: Final = 2**32 - 1
"""The user id that no user has."""

_NEIGHBOURS: Final = (
    "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report"
)
_NO_OPENING: Final = "tcp flags & (syn | ack) != syn"


@dataclass(frozen=True, slots=True)
class Pair:
    """A network and a TCP port that agents may reach."""

    network: IPv4Network | IPv6Network
    port: int

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Read `CIDR:PORT`, an IPv6 network in brackets. Raises `ArgumentTypeError`."""
        where, _, port = text.rpartition(":")
        bracketed = where.startswith("[") and where.endswith("]")
        try:
            network = ipaddress.ip_network(where[1:-1] if bracketed else where)
        except ValueError as error:
            raise _wrong(f"`{text}` is not CIDR:PORT: {error}") from None
        if bracketed != (network.version == 6) or "%" in text:  # noqa: PLR2004
            raise _wrong(f"`{text}` is not CIDR:PORT: brackets are for IPv6, as [2001:db8::/32]:443")
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) < 2**16:
            raise _wrong(f"`{text}` is not CIDR:PORT: a port is from 1 to 65535")
        return cls(network, int(port))


@dataclass(frozen=True, slots=True)
class Fence:
    """Who is free, and what others may reach."""

    free: tuple[int, ...]
    pairs: tuple[Pair, ...] = ()
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()

    def ruleset(self) -> str:
        """Write the rules for `nft -f`: one transaction, which takes the place of what was loaded before."""
        return "\n".join(
            (
                f"table inet {TABLE}",
                f"delete table inet {TABLE}",
                f"table inet {TABLE} {{",
                *_chain("output", _output(self.free)),
                *_chain("agent", [*map(_way, self.pairs), *map(_resolver, self.resolvers), *_AGENT]),
                *_chain("nobody", _KERNEL),
                "}\n",
            )
        )


_AGENT: Final = (
    f"ct direction reply ct state established {_NO_OPENING} accept",
    "meta l4proto tcp reject with tcp reset",
    "reject with icmpx admin-prohibited",
)
_KERNEL: Final = (
    f"icmpv6 type {{ {_NEIGHBOURS} }} accept",
    f"meta l4proto tcp ct state established {_NO_OPENING} accept",
    "meta l4proto { icmp, icmpv6 } ct state { established, related } accept",
)


def _output(free: Sequence[int]) -> tuple[str, ...]:
    return (
        "type filter hook output priority filter; policy drop;",
        # By address too: a socket may be bound to `lo` by anybody, and send anywhere.
        'oif "lo" fib daddr type local accept',
        f"meta skuid {{ {', '.join(map(str, sorted(set(free))))} }} accept",
        f"meta skuid != {NOBODY} goto agent",  # of whomever it is: a packet of nobody's matches no user id
        "goto nobody",
    )


def _way(pair: Pair) -> str:
    return f"{_family(pair.network.version)} daddr {pair.network} tcp dport {pair.port} accept"


def _resolver(address: IPv4Address | IPv6Address) -> str:
    return f"{_family(address.version)} daddr {address} meta l4proto {{ tcp, udp }} th dport 53 accept"


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"  # noqa: PLR2004


def _chain(name: str, rules: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]


def main(argv: Sequence[str]) -> int:
    """Read the command line, and load the rules or print them; returns the exit code."""
    options = _parser().parse_args(list(argv))
    ruleset = Fence(tuple(options.free_uid), tuple(options.agent_may), tuple(options.dns)).ruleset()
    if options.print:
        sys.stdout.write(ruleset)
        return LOADED
    nft = shutil.which("nft")
    if nft is None:
        return _fail("the program `nft` is not here: take the fence's own image, or install the package nftables")
    done = subprocess.run([nft, "-f", "-"], input=ruleset, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or f"`nft` ended with {done.returncode}"
        return _fail(f"the rules are not in force: {said}: this needs root with NET_ADMIN")
    return LOADED


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)  # noqa: T201
    return UNAVAILABLE


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}: see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="exequatur sidecar fence",
        description="Let only some users of a pod send packets out of it. Run it once, before all other containers.",
        usage="%(prog)s --free-uid UID [--agent-may CIDR:PORT] [--dns IP] [--print]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--free-uid",
        action="append",
        required=True,
        type=_uid,
        metavar="UID",
        help="a user who may send anything, as the sidecar's (repeat for more)",
    )
    parser.add_argument(
        "--agent-may",
        action="append",
        default=[],
        type=Pair.parse,
        metavar="CIDR:PORT",
        help="where everybody else may open TCP connections; an IPv6 network in brackets (repeat for more)",
    )
    parser.add_argument(
        "--dns",
        action="append",
        default=[],
        type=_address,
        metavar="IP",
        help="a resolver that everybody may ask, port 53 (repeat for more)",
    )
    parser.add_argument("--print", action="store_true", help="show the rules, and load nothing")
    return parser


def _uid(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= NOBODY:
        raise _wrong(f"`{text}` is no user id")
    if int(text) == 0:
        raise _wrong("`0` is root, whom an image runs as where nothing is said: free another user")
    return int(text)


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        if "%" not in text:  # no zone, which may hold anything
            return ipaddress.ip_address(text)
    except ValueError:
        pass
    raise _wrong(f"`{text}` is no IP address")


def _wrong(text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(text)
