"""What is served to whom, and why: written to the state folder by the supervisor, read there by its workers.

Rules: the file is replaced whole; it holds no secret and no policy, only names, digests, times and reasons.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from exequatur.disk import reason

log = logging.getLogger(__name__)

FILE: Final = "status.json"

ALARMS: Final = 32
"""How many alarms are kept; the oldest give way."""

STILL_S: Final = 10.0
"""How often the file is written when nothing has changed but times, in seconds."""

_TIMES: Final = frozenset({"at", "last_look_at", "confirmed_at"})


def read(state: Path) -> Mapping[str, Any]:
    """Read the status from the folder `state`; empty where there is none that can be read."""
    try:
        found = json.loads((state / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class StatusFile:
    """Writes the status into a folder, when it has changed, and now and then."""

    def __init__(self, state: Path) -> None:
        """Write into `state`."""
        self._state = state
        self._known: object = None
        self._written = 0.0
        self._fault = ""

    def write(self, status: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Write `status`, unless only its times are others; a disk that is full is said once."""
        known = _timeless(status)
        if not at_once and known == self._known and time.monotonic() - self._written < STILL_S:
            return
        try:
            _replace(self._state / FILE, json.dumps(status, indent=1).encode() + b"\n")
        except OSError as error:
            if reason(error) != self._fault:
                log.error("the status cannot be written: %s", reason(error))  # noqa: TRY400
            self._fault = reason(error)
            return
        self._known, self._written, self._fault = known, time.monotonic(), ""


class Alarms:
    """What somebody should look into, said once each: what happened stays, what can be mended stands until it is."""

    def __init__(self, count: Callable[[], None]) -> None:
        """Tell `count` of each alarm."""
        self._count = count
        self._texts: dict[str, str] = {}
        self._standing: dict[str, str] = {}

    def __call__(self, text: str) -> None:
        """Raise an alarm, unless it was raised already."""
        if text in self._texts:
            return
        log.error("alarm: %s", text)
        self._count()
        self._texts[text] = rfc3339(datetime.now(UTC))
        if len(self._texts) > ALARMS:
            del self._texts[next(iter(self._texts))]

    def stand(self, condition: str, text: str) -> None:
        """Raise an alarm about `condition`, in place of an earlier one; an empty text withdraws that."""
        before = self._standing.pop(condition, "")
        if text:
            self._standing[condition] = text
        if text == before:
            return
        self._texts.pop(before, None)
        if text:
            self(text)
        else:
            log.info("an alarm is over: %s", before)

    @property
    def listed(self) -> list[str]:
        """All of them, the oldest first, each with its time."""
        return [f"{at} {text}" for text, at in self._texts.items()]


def rfc3339(time: datetime) -> str:
    """Write a time as the status has it: UTC, to the millisecond."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _timeless(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _timeless(item) for name, item in value.items() if name not in _TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, for our eyes alone."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".status")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
