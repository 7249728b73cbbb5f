"""Actions that were recorded, as lines of JSON: each is what `exequatur policy eval` takes.

Rules: a line is an action's envelope, or {"action": ENVELOPE} with "session", "time" and "door_enforced" beside it, as
`--session`, `--time` and `--door-enforced` say them; lines are read one by one, and none is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, Final

from exequatur.action import ActionError, parse_envelope
from exequatur.trust.canonical import DEFAULT_LIMITS, JsonError, JsonLimits, canonical, parse
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.bundle.wanted import Want
from pdp.engine.reading import Fields, PolicyError
from pdp.model import Effect

LINE_BYTES: Final = 2**20
_LIMITS: Final = JsonLimits(bytes=LINE_BYTES, depth=DEFAULT_LIMITS.depth + 2)
_LOCAL: Final = "local"


def read(file: BinaryIO, name: str, now: datetime) -> Iterator[tuple[int, Case]]:
    """Give each action with its line's number; one without a time is asked at `now`. Raises `PolicyError`."""
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise PolicyError(f"`{name}:{number}`: a line of more than {LINE_BYTES} bytes: it is no action")
        if line.strip():
            yield number, _case(f"`{name}:{number}`", line, now)


def _case(where: str, line: bytes, now: datetime) -> Case:
    try:
        value = parse(line.strip(), _LIMITS)
        if not isinstance(value, dict) or "action" not in value:
            fields, envelope = Fields(where, {}), value
        else:
            fields = Fields(where, value)
            envelope = fields.take("action")
        action = parse_envelope(canonical(envelope))
    except (JsonError, ActionError) as error:
        raise PolicyError(f"{where}: {error}") from None
    run = cases.read_run(f"{where}: `session`", fields.take("session", {}), session_id=action.session or _LOCAL)
    time, enforced = _time(fields, now), fields.take("door_enforced", False)
    if not isinstance(enforced, bool):
        raise fields.error("door_enforced", "true or false")
    fields.close()
    return Case(where, "", action, time, enforced, run, Want(Effect.ALLOW))


def _time(fields: Fields, now: datetime) -> datetime:
    text = fields.take("time")
    if text is None:
        return now
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise fields.error("time", "a time with its zone, such as `2026-01-05T10:00:00Z`")
    return time.astimezone(UTC)
