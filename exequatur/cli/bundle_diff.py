"""The work of `exequatur bundle diff`: what a new bundle means that the old one did not.

Rules: exit code 0 if nothing is wider, or might be, but what was accepted by its id; 1 if something is; 2 for a wrong
call, and an accepted id that names nothing is one. A side that does not compile is exit code 1: nobody can tell. What
is kept of a great many changes is bounded, and what is left out is counted and still wants accepting.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from exequatur.cli import bundle_diff_pictures as pictures
from exequatur.cli.console import Exit, emit, errors, fail
from exequatur.cli.policy_opening import faults, opening
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.engine.reading import PolicyError
from pdp.policy.diff import flips, meaning, recorded
from pdp.policy.diff.change import Accepted, Change, Direction
from pdp.policy.diff.flips import Named, Sides
from pdp.policy.diff.probe import Probed, probe
from pdp.policy.opening import Compiled, Opened

_KEPT: Final = 5_000
"""Changes of one direction that are kept, of however many there are."""

_QUIET_S: Final = 1.0
"""For so long nobody needs to be told that it goes on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is compared, and what of the outcome is known. `probe_s` is how long to probe; 0 is not at all."""

    old: Path
    new: Path
    accepted: tuple[str, ...] = ()
    recorded: Path | None = None
    probe_s: float = 5.0
    as_json: bool = False


@dataclass(slots=True)
class _Found:
    """The changes so far: those that are kept, and how many there are of each direction."""

    accepted: Accepted
    kept: dict[Direction, list[tuple[Change, bool]]] = field(default_factory=lambda: {each: [] for each in Direction})
    counts: Counter[Direction] = field(default_factory=Counter)
    open: int = 0
    """Those that want accepting, and are not."""

    def take(self, changes: Iterable[Change]) -> None:
        for change in (each.printable() for each in changes):
            taken = self.accepted.takes(change) and change.wants_accepting
            self.open += change.wants_accepting and not taken
            self.counts[change.direction] += 1
            kept = self.kept[change.direction]
            if len(kept) < _KEPT:
                kept.append((change, taken))


def diff(asked: Asked) -> NoReturn:
    """Compare, show, and exit."""
    found = _Found(Accepted(asked.accepted))
    with faults(), contextlib.ExitStack() as stack:
        compiler = Compiled()
        old, new = (stack.enter_context(_opening(path, compiler)) for path in (asked.old, asked.new))
        with errors.status("comparing"):
            found.take(meaning.changes(old, new, packed=(asked.old.is_file(), asked.new.is_file())))
        value = _judge(asked, old, new, found)
    value |= _value(found)
    emit(value, as_json=asked.as_json, render=lambda: pictures.difference(value))
    if unused := _unused(found.accepted, value["probe"]):
        fail(f"`--accept {unused}` names no change that wants accepting: take it out, or correct the id")
    raise typer.Exit(Exit.NO if found.open else Exit.OK)


def _unused(accepted: Accepted, probe: dict[str, Any] | None) -> str:
    """Give an id that names nothing. What the probe would have come to, had it had time, nobody knows."""
    whole = probe is not None and probe["tried"] == probe["planned"]
    return next((name for name in accepted.unused if whole or not name.startswith("probe:")), "")


@contextlib.contextmanager
def _opening(path: Path, compiler: Compiled) -> Iterator[Opened]:
    """Open one side; what is wrong with it is said with its name."""
    with contextlib.ExitStack() as stack:
        with _side(path):
            found = stack.enter_context(opening(path, compiler))
        yield found


@contextlib.contextmanager
def _side(path: Path) -> Iterator[None]:
    """Say which side is wrong."""
    try:
        yield
    except PolicyError as error:
        text = str(error)
        raise PolicyError(text if text.startswith(f"`{path}`") else f"`{path}`: {text}") from None


def _cases(path: Path, opened: Opened) -> tuple[Case, ...]:
    with _side(path):
        return cases.read(opened.files)


def _judge(asked: Asked, old: Opened, new: Opened, found: _Found) -> dict[str, Any]:
    """Judge the cases, what was recorded, and what the probe comes to; say how much that was."""
    sides = Sides(old.snapshot, new.snapshot)
    same = flips.same(old, new)
    named = [] if same else flips.named(_cases(asked.old, old), _cases(asked.new, new))
    with _progress() as told:
        for at, (name, case) in enumerate(named):
            told(f"judging cases twice: {at:,} of {len(named):,}")
            found.take(filter(None, [sides.flip(name, case)]))
        lines = None if asked.recorded is None else _recorded(asked.recorded, sides, found, told)
        probed = None if same or not asked.probe_s else _probe(sides, named, asked.probe_s, told)
    if probed is not None:
        found.take(probed.changes)
    return {
        "old": str(asked.old),
        "old_digest": old.snapshot.digest.hex(),
        "new": str(asked.new),
        "new_digest": new.snapshot.digest.hex(),
        "cases": None if same else len(named),
        "recorded": lines,
        "probe": None if probed is None else _probed(probed),
    }


def _recorded(path: Path, sides: Sides, found: _Found, told: Callable[[str], None]) -> int:
    count = 0
    now = datetime.now(UTC)
    try:
        with path.open("rb") as file:
            for number, case in recorded.read(file, str(path), now):
                told(f"judging recorded actions twice: {count:,}")
                found.take(filter(None, [sides.flip(f"recorded:{number}", case)]))
                count += 1
    except PolicyError as error:
        fail(str(error))
    if not count:
        fail(f"`{path}`: no action is in it, and none proves nothing")
    return count


def _probe(sides: Sides, named: list[Named], seconds: float, told: Callable[[str], None]) -> Probed:
    def on_try(at: int, of: int) -> None:
        told(f"probing: {at:,} of {of:,} tries")

    return probe(sides, [case for _, case in named], seconds, on_try)


def _probed(probed: Probed) -> dict[str, Any]:
    return {
        "pairs": probed.pairs,
        "planned": probed.planned,
        "tried": probed.tried,
        "met": probed.met,
        "asked": probed.asked,
        "took_ms": round(probed.took_s * 1000),
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Say what goes on, where it takes longer than a second and a person watches."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", visible=False)

        def told(text: str) -> None:
            elapsed = progress.tasks[task].elapsed or 0.0
            progress.update(task, description=text, visible=elapsed > _QUIET_S)

        yield told


def _value(found: _Found) -> dict[str, Any]:
    ordered = [pair for direction in reversed(Direction) for pair in sorted(found.kept[direction], key=_order)]
    return {
        "ok": not found.open,
        "unaccepted": found.open,
        "counts": {direction.name.lower(): found.counts[direction] for direction in Direction},
        "allowed": [change.id for change, _ in ordered if change.allows],
        "changes": [
            {
                "id": change.id,
                "direction": change.direction.name.lower(),
                "text": change.text,
                "allows": change.allows,
                "accepted": accepted,
            }
            for change, accepted in ordered
        ],
    }


_KINDS: Final = ("agent", "tool", "limit", "outage", "engine", "policy", "opa", "rego", "data", "case", "recorded")


def _order(pair: tuple[Change, bool]) -> tuple[bool, bool, int]:
    """Put first what is not accepted, then what may run now, then what was written before what was tried."""
    change, accepted = pair
    kind = change.id.partition(":")[0]
    return (accepted, not change.allows, _KINDS.index(kind) if kind in _KINDS else len(_KINDS))
