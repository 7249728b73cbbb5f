"""All hostile bundles, by name: what makes each of them, what its refusal must say, and which are quick to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hostile_archives import AROUND, CONTAINERS, Make
from hostile_contents import ENDLESS, INSIDE


@dataclass(frozen=True, slots=True)
class Hostile:
    """A bundle that must be refused. `why` is a regular expression for what the refusal says."""

    why: str
    make: Make
    proved: bool
    """It is refused by the process that proves bundles, which costs half a second of processor time, or more."""


CORPUS: Final[dict[str, Hostile]] = {
    **{name: Hostile(why, make, proved=False) for name, (why, make) in (CONTAINERS | AROUND).items()},
    **{name: Hostile(why, make, proved=True) for name, (why, make) in (INSIDE | ENDLESS).items()},
}

CHOSEN: Final = (
    *(name for name, one in CORPUS.items() if not one.proved and name != "json-wide"),
    "cedar-in-capitals",
    "wasm-loop-at-start",
)
"""What is quick to refuse, and a little of what is not."""
