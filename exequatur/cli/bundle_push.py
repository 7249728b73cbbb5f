"""The work of `exequatur bundle push`.

Rules: what must not be sent, or not there, is exit code 1, also when a server says so; one that gives no answer is 69;
the place and the digest are said as a decision point wants them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exequatur.cli import bundle_opening as opening
from exequatur.cli.bundle_pictures import done
from exequatur.cli.console import Exit, emit, fail
from pdp.bundle.push import Pusher, PushRefused, check_destination, pack
from pdp.bundle.source import SourceError
from pdp.bundle.web import Access

_REFUSALS: Final = range(400, 500)


@dataclass(frozen=True, slots=True)
class Order:
    """What to put where, by whose keys it must be signed, and how the place is reached."""

    bundle: Path
    destination: str
    keys: Path | None
    access: Access
    as_json: bool


def push(order: Order) -> None:
    """Look at it, look at what is there, and put it there."""
    if (order.access.certificate is None) != (order.access.key is None):
        fail("`--certificate` and `--key` go together")
    files = {"token": order.access.token, "roots": order.access.roots, "certificate": order.access.certificate}
    for name, path in (files | {"key": order.access.key}).items():
        if path is not None and not path.exists():
            fail(f"`--{name} {path}`: it is not there")
    try:
        check_destination(order.destination, order.access)
    except SourceError as error:
        fail(f"`{order.destination}`: {error}")
    keys = None if order.keys is None else opening.ring(order.keys)
    now = datetime.now(UTC)
    with opening.faults(f"`{order.bundle}`: "):
        parcel = pack(order.bundle.name, opening.archive(order.bundle), keys, now=now)
        try:
            pushed = asyncio.run(Pusher(parcel, order.access, keys, now=now).push(order.destination))
        except PushRefused as error:
            fail(str(error), Exit.NO)
        except SourceError as error:
            code = Exit.NO if error.status in _REFUSALS else Exit.UNREACHABLE
            fail(f"`{order.destination.partition('?')[0]}`: {error}", code)
    value = {
        "where": pushed.where,
        "pushed": pushed.changed,
        "digest": parcel.digest,
        "sequence": parcel.sequence,
        "tenant": parcel.tenant,
        "before": pushed.before,
        "verified": keys is not None,
        **({"pin": pushed.pin} if pushed.pin else {}),
    }
    emit(value, as_json=order.as_json, render=lambda: _picture(str(order.bundle), value))


def _picture(name: str, value: dict[str, Any]) -> RenderableType:
    sequence = str(value["sequence"])
    if value["pushed"] and value["before"] is not None:
        sequence += f", after {value['before']}"
    grid = Table.grid(padding=(0, 2))
    for label, fact in (
        ("to", value["where"]),
        ("pinned", value.get("pin", "")),
        ("sequence", sequence),
        ("tenant", value["tenant"]),
        ("digest", value["digest"]),
        ("signature", "verified" if value["verified"] else "not verified: `--keys` says by whom it must be"),
    ):
        if fact:
            grid.add_row(Text(label, style="dim"), Text(fact, overflow="fold"))
    return Group(done(f"pushed {name}" if value["pushed"] else f"{name} is there already"), grid)
