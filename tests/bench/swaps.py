"""What a change of policy costs those who call: ratios within one run, because machines are shared and noisy.

1. A hundred bundles, one after another, and a new key every ten, under load: no call fails, none is judged by what is
   over for longer than two seconds, each names the digest that its record has; the 99th percentile, with and without.
2. Ten thousand Cedar policies take the place of a hundred, some times: seconds from when the bundle was put until a call
   is judged by it, and the 99th percentile meanwhile, by that of the idle time just before.

Two workers, four callers with a session each, in plain text on loopback, on the same processors.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from besieged import Besieged, Caller, besieged, small
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import SigningKey, generate
from signing import public_pem
from stack import until
from swapping import digests, follow, misnamed, outdated, percentile, serves

SWAPS, KEYS_EVERY, LARGE, TIMES, IDLE_S = 100, 10, 10_000, 5, 8.0
PAUSE_S = 0.02
console = Console()


def key(number: int) -> SigningKey:
    return SigningKey.from_pem(f"k{number}.pem", generate("ES256")[0])


def policies(count: int) -> dict[str, bytes]:
    """Give the bank's bundle with as many policies more, for another tool than the one that is called."""
    rule = 'forbid (principal, action == Action::"bank/close", resource) when {{ context.input.account == "{n}" }};\n'
    return {**small(), "more.cedar": "".join(rule.format(n=n) for n in range(count)).encode()}


def signed(sequence: int, signer: SigningKey, count: int = 100) -> bytes:
    return sign(policies(count), signer, BundleClaims(sequence, datetime.now(UTC) + timedelta(days=1)))


def rotate(target: Besieged, old: SigningKey, new: SigningKey) -> None:
    """Trust the new key beside the old one, whose bundle is in force."""
    (target.keys / f"{new.kid}.pem").write_bytes(public_pem(new))
    until(lambda: new.kid in target.tenant["keys"]["kids"], 20, "the new key")


def between(callers: list[Caller], begin: float, end: float) -> list[float]:
    return [one.took_s for caller in callers for one in caller.told if begin <= one.at < end]


def many(count: int) -> None:
    """Change bundle and keys under load."""
    signer = key(0)
    with besieged(first=lambda: signed(1, signer), keys={"k0.pem": public_pem(signer)}) as target:
        before = target.pids
        with target.calls(PAUSE_S, 4) as callers:
            idle = time.monotonic()
            time.sleep(IDLE_S)
            begun = time.monotonic()
            for number in range(2, 2 + count):
                if number % KEYS_EVERY == 0:
                    old, signer = signer, key(number)
                    rotate(target, old, signer)
                follow(target, number, signer, policies(100))
                if number % KEYS_EVERY == 0:
                    (target.keys / f"{old.kid}.pem").unlink()
            ended = time.monotonic()
        same = target.pids == before
        target.process.stop()
        records = target.records()
    told = [one for caller in callers for one in caller.told]
    quiet, busy = between(callers, idle, begun), between(callers, begun, ended)
    table = Table("what", "figure", title=f"{count} bundles and {count // KEYS_EVERY} keys, one after another")
    table.add_row(
        "seconds a bundle, from when it was put until both workers serve it", f"{(ended - begun) / count:.2f}"
    )
    table.add_row("decisions", f"{len(told):,}")
    table.add_row("failed", str(sum(len(caller.failed) for caller in callers)))
    table.add_row("by what was over for more than 2 s", str(len(outdated(records))))
    table.add_row("that named another digest than their record", str(len(misnamed(told, records))))
    table.add_row("sequences with more than one digest", str(sum(len(each) > 1 for each in digests(told).values())))
    table.add_row("processes are the same", "yes" if same else "no")
    table.add_row(
        "ms at p99, idle / while they change", f"{percentile(quiet, 0.99):.1f} / {percentile(busy, 0.99):.1f}"
    )
    table.add_row("ratio", f"{percentile(busy, 0.99) / percentile(quiet, 0.99):.2f}")
    console.print(table)


def large(count: int, times: int) -> None:
    """Put large bundles in force."""
    signer = key(0)
    table = Table(
        "s to be in force", "ms p50 idle", "ms p99 idle", "ms p99 meanwhile", "ratio", title=f"{count:,} policies"
    )
    rows: list[tuple[float, float]] = []
    with besieged(first=lambda: signed(1, signer), keys={"k0.pem": public_pem(signer)}) as target:
        with target.calls(PAUSE_S, 4) as callers:
            for number in range(2, 2 + times):
                data = signed(number, signer, count)
                idle = time.monotonic()
                time.sleep(IDLE_S)
                begun = time.monotonic()
                target.put(f"{number}.tar.gz", data)
                until(lambda n=number: serves(target, n), 120, "the large bundle", every_s=0.05)
                time.sleep(0.5)
                ended = time.monotonic()
                quiet, busy = between(callers, idle, begun), between(callers, begun, ended)
                first = min(one.at + one.took_s for caller in callers for one in caller.told if one.sequence == number)
                rows.append((first - begun, percentile(busy, 0.99) / percentile(quiet, 0.99)))
                table.add_row(
                    f"{rows[-1][0]:.2f}",
                    *(f"{percentile(quiet, share):.1f}" for share in (0.5, 0.99)),
                    f"{percentile(busy, 0.99):.1f}",
                    f"{rows[-1][1]:.2f}",
                )
        failed = sum(len(caller.failed) for caller in callers)
        memory = target.most_memory
    table.caption = (
        f"median: {statistics.median(row[0] for row in rows):.2f} s, ratio {statistics.median(row[1] for row in rows):.2f}; "
        f"{failed} calls failed; at most {memory // 2**20} MiB in a process"
    )
    console.print(table)


def main(swaps: int = SWAPS, times: int = TIMES) -> None:
    """Measure both."""
    large(LARGE, times)
    many(swaps)


if __name__ == "__main__":
    import sys

    main(*(int(number) for number in sys.argv[1:3]))
