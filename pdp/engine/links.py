"""`links.json`: policies made of Cedar's templates, each for one agent, team or resource.

Rules: a link fills each slot of its template, and no other; it is a policy with an id of its own; what it says in
`annotations` stands in place of what the template says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cedarpy import pst

from exequatur.schemas import Fault
from pdp.engine.reading import PolicyError, read_file

FILE: Final = "links.json"

_SLOTS: Final[tuple[pst.SlotName, ...]] = ("principal", "resource")


@dataclass(frozen=True, slots=True)
class Link:
    """One link. `pointer` is its place in the file (RFC 6901), `values` what stands for the template's slots."""

    id: str
    template: str
    pointer: str
    values: Mapping[pst.SlotName, pst.EntityUid]
    annotations: Mapping[str, str]


def read_links(files: Mapping[str, bytes]) -> tuple[Link, ...]:
    """Read the bundle's links; none where it has no such file. Raises `PolicyError` with file and line."""
    nested = sorted(name for name in files if name.endswith("/" + FILE))
    if nested:
        raise PolicyError(f"`{nested[0]}`: links belong in one `{FILE}` at the top: move them there")
    if FILE not in files:
        return ()
    listed = read_file("links", FILE, files[FILE])["links"]
    return tuple(_link(f"/links/{number}", item) for number, item in enumerate(listed))


def link_error(files: Mapping[str, bytes], pointer: str, wanted: str) -> PolicyError:
    """Make the error for a link, or for what stands at `pointer` in it; `wanted` is `must be …`."""
    return PolicyError(Fault(pointer, wanted).located(FILE, files[FILE]))


def _link(pointer: str, item: dict[str, Any]) -> Link:
    values = {
        slot: pst.EntityUid(pst.EntityType(item[slot]["type"]), item[slot]["id"]) for slot in _SLOTS if slot in item
    }
    return Link(item["id"], item["template"], pointer, values, item.get("annotations", {}))


def literal(uid: pst.EntityUid) -> str:
    """Write an entity in Cedar's syntax: printable ASCII as it is, everything else as an escape."""
    text = "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{{{ord(c):x}}}" for c in uid.id)
    return f'{uid.type}::"{text}"'
