"""`exequatur bundle status`: what a running decision point serves, and what keeps it from serving something newer.

Rules: exit code 0 means that every tenant's policy judges; what is wrong is said in the decision point's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import Exit, emit, fail
from exequatur.cli.reach import reach
from exequatur.client import CallError
from exequatur.served import BundleStatus, CandidateStatus, PolicyState, ServedBundle, TenantStatus

REFRESH_S: Final = 60.0
"""How long a look may take, in seconds: an origin far away, a large bundle, its cases."""
OLD: Final = timedelta(seconds=30)
"""A status older than this was left behind: the supervisor writes one at least every ten seconds."""
SOON: Final = timedelta(days=3)
"""Less than this until the expiry is shown as a warning."""

_SHORT: Final = 12  # characters of a digest that people compare
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_Line = tuple[str, str, str]
"""A word in front, what it is about, and how it is coloured."""


def status(
    target: str,
    *,
    tenant: str,
    refresh: bool,
    certificate: Path | None,
    key: Path | None,
    roots: Path | None,
    unsafe_plaintext: bool,
    as_json: bool,
) -> None:
    """Ask, show, and exit with 1 when a tenant's policy does not judge."""
    timeout_s = REFRESH_S if refresh else None
    with reach(
        target,
        certificate=certificate,
        key=key,
        roots=roots,
        unsafe_plaintext=unsafe_plaintext,
        timeout_s=timeout_s,
    ) as client:
        try:
            found = client.refresh_bundles(tenant=tenant) if refresh else client.bundle_status(tenant=tenant)
        except CallError as error:
            if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise
            fail(f"`{target}` does not answer: {unreached(str(error))}", Exit.UNREACHABLE)
    now = datetime.now(UTC)
    emit(_value(found), as_json=as_json, render=lambda: picture(found, now))
    if not found.serving:
        raise typer.Exit(Exit.NO)


def unreached(said: str) -> str:
    """Say in our words why nobody answers, and what to look at; gRPC's are long, and are for those who know it."""
    if "Connection refused" in said or "No such file" in said:
        return "nobody listens there: it listens once a first bundle is served, and its log says what it refused"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "its certificate is refused: `--tls-roots` must sign it, and it must be for this host"
    if "Tls handshake" in said or "SSL" in said:
        return "the TLS handshake failed: look whether it is a decision point, and takes our `--tls-certificate`"
    if "Socket closed" in said:
        return "it closed the connection: where it wants TLS, give `--tls-certificate`, `--tls-key` and `--tls-roots`"
    return f"{said[:1].lower()}{said[1:]}: look at the address, and at its log"


def picture(found: BundleStatus, now: datetime) -> RenderableType:
    """Show one row a tenant, and below it a line for each thing that somebody should know."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tenant", overflow="fold", max_width=24)
    table.add_column("state", no_wrap=True)
    table.add_column("sequence", justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    table.add_column("signed by", overflow="fold")
    table.add_column("expires", no_wrap=True)
    table.add_column("heard", no_wrap=True)
    for tenant in found.tenants:
        table.add_row(*_row(tenant, now))
    parts: list[RenderableType] = [table]
    for tenant in found.tenants:
        if lines := list(_lines(tenant, now)):
            parts += [Text(), Text(tenant.tenant, style="bold"), Padding(_grid(lines), (0, 0, 0, 2))]
    if found.alarms:
        parts += [
            Text(),
            Text("alarms", style="bold red"),
            Padding(_grid(("!", a, "red") for a in found.alarms), (0, 2)),
        ]
    if found.at is None or now - found.at > OLD:
        age = "of no known age" if found.at is None else f"{_span(now - found.at)} old"
        parts += [Text(), Text(f"this status is {age}: the supervisor does not write any more", style="bold red")]
    if not found.tenants:
        parts = [Text("no tenant is served", style="bold red")]
    return Group(*parts)


def _row(tenant: TenantStatus, now: datetime) -> tuple[Text, ...]:
    serving, good = tenant.serving, tenant.state is PolicyState.SERVING
    return (
        Text(tenant.tenant, style="bold"),
        Text(_word(tenant.state), style="green" if good else "bold red"),
        Text(str(serving.sequence) if serving else "-"),
        Text(serving.digest.hex()[:_SHORT] if serving else "-"),
        Text(_signers(serving)) if serving else Text("-"),
        _expiry(serving, now),
        Text("never" if tenant.confirmed_at is None else f"{_span(now - tenant.confirmed_at)} ago"),
    )


def _signers(serving: ServedBundle) -> str:
    return "\n".join(serving.kids) or "nobody"


def _expiry(serving: ServedBundle | None, now: datetime) -> Text:
    if serving is None or serving.expires_at is None:
        return Text("-" if serving is None else "never")
    left = serving.expires_at - now
    if left <= timedelta():
        return Text(f"{_span(-left)} ago", style="bold red")
    return Text(f"in {_span(left)}", style="yellow" if left < SOON else "")


def _lines(tenant: TenantStatus, now: datetime) -> Iterator[_Line]:
    """Say what the row does not: worst first."""
    if tenant.state is not PolicyState.SERVING:
        yield _word(tenant.state), f"every action is denied: {tenant.reason or 'no reason is given'}", "bold red"
    if tenant.refused is not None:
        refused = tenant.refused
        when = "" if refused.at is None else f" {_span(now - refused.at)} ago"
        yield f"refused{when}", _sentence(refused.origin, refused.digest, refused.reason), "red"
    known = tenant.refused.reason if tenant.refused else None
    for fault in tenant.faults:
        if known is None or known not in fault:  # it was said just above
            yield "wrong", fault, "red"
    if tenant.keys is not None and tenant.keys.fault:
        yield "keys", f"{tenant.keys.fault}: the keys that were good stay, and nothing new is taken", "red"
    if tenant.behind:
        ours = ", ".join(f"{name} ({tenant.workers[name].hex()[:_SHORT] or 'nothing'})" for name in tenant.behind)
        yield "workers", f"serve something else: {ours}", "yellow"
    if tenant.candidate is not None:
        yield "candidate", _trial(tenant.candidate), "red" if tenant.candidate.halted else "cyan"
    if tenant.state is not PolicyState.SERVING or tenant.refused is not None or tenant.faults:
        yield "source", tenant.source, "dim"
        yield "floor", f"sequence {tenant.floor}: nothing below it is taken", "dim"
        if tenant.keys is not None:
            yield "may sign", _trust(tenant), "dim"


def _sentence(origin: str, digest: bytes, reason: str) -> str:
    name = f" ({digest.hex()[:_SHORT]})" if digest else ""
    return f"{origin}{name}: {reason}"


def _trial(candidate: CandidateStatus) -> str:
    mode = candidate.mode.name.lower()
    share = f" for {candidate.percent} % of the sessions" if candidate.percent else ""
    counts = {"stricter": candidate.stricter, "looser": candidate.looser, "failed": candidate.errors}
    told = ", ".join((f"{candidate.judged} judged", *(f"{count} {word}" for word, count in counts.items())))
    text = f"sequence {candidate.sequence} ({candidate.digest.hex()[:_SHORT]}) as {mode}{share}: {told}"
    return f"{text}; halted: {candidate.halted}" if candidate.halted else text


def _trust(tenant: TenantStatus) -> str:
    keys = tenant.keys
    if keys is None:
        return ""
    owners = "one owner" if keys.threshold == 1 else f"{keys.threshold} owners"
    text = f"{', '.join(keys.kids) or 'nobody'}; {owners} must"
    return f"{text}; revoked: {', '.join(keys.revoked)}" if keys.revoked else text


def _grid(lines: Iterator[_Line] | list[_Line]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for word, text, style in lines:
        grid.add_row(Text(word, style=style), Text(text, style="dim" if style == "dim" else ""))
    return grid


def _word(state: PolicyState) -> str:
    return {PolicyState.UNSPECIFIED: "unknown", PolicyState.NONE: "no policy"}.get(state, state.name.lower())


def _span(span: timedelta) -> str:
    """Say how long in the largest unit of which there are two, so that `47 h` is not `1 d`."""
    seconds = max(int(span.total_seconds()), 0)
    name, size = next(((name, size) for name, size in _UNITS if seconds >= 2 * size), _UNITS[-1])
    return f"{seconds // size} {name}"


def _value(found: BundleStatus) -> dict[str, Any]:
    return {
        "serving": found.serving,
        "tenants": [_tenant(tenant) for tenant in found.tenants],
        "alarms": [*found.alarms],
        "at": _time(found.at),
    }


def _tenant(tenant: TenantStatus) -> dict[str, Any]:
    serving, refused, candidate, keys = tenant.serving, tenant.refused, tenant.candidate, tenant.keys
    return {
        "tenant": tenant.tenant,
        "source": tenant.source,
        "state": tenant.state.name.lower(),
        "reason": tenant.reason,
        "serving": serving
        and {
            "digest": serving.digest.hex(),
            "sequence": serving.sequence,
            "kids": [*serving.kids],
            "revision": serving.revision,
            "expires_at": _time(serving.expires_at),
            "since": _time(serving.since),
        },
        "floor": tenant.floor,
        "confirmed_at": _time(tenant.confirmed_at),
        "last_look_at": _time(tenant.last_look_at),
        "faults": [*tenant.faults],
        "refused": refused
        and {
            "origin": refused.origin,
            "digest": refused.digest.hex(),
            "reason": refused.reason,
            "at": _time(refused.at),
        },
        "candidate": candidate
        and {
            "digest": candidate.digest.hex(),
            "sequence": candidate.sequence,
            "mode": candidate.mode.name.lower(),
            "percent": candidate.percent,
            "judged": candidate.judged,
            "stricter": candidate.stricter,
            "looser": candidate.looser,
            "errors": candidate.errors,
            "halted": candidate.halted,
        },
        "keys": keys
        and {"kids": [*keys.kids], "threshold": keys.threshold, "revoked": [*keys.revoked], "fault": keys.fault},
        "workers": {name: digest.hex() for name, digest in tenant.workers.items()},
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
