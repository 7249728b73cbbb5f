"""How a daemon lives: logs in lines, starts, says when it is ready and what is missing, drains, stops.

Rules: one stop event, set by SIGTERM or SIGINT; ready is a latch with named parts; live is another question; a log
line is one JSON object on standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import uvloop

OK, CONFIG, UNREACHABLE = 0, 64, 69
"""Exit codes of a daemon: done; the configuration is wrong; a port or a service cannot be had."""


class StartError(Exception):
    """Why a daemon cannot start: one sentence for whoever starts it, and the exit code."""

    def __init__(self, text: str, code: int = CONFIG) -> None:
        """Keep the sentence and the exit code."""
        super().__init__(text)
        self.code = code


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message and what the call passed as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render `record`; a traceback goes into one member so that a line stays a line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Send every logger to standard error in JSON lines. Only a program calls this, never a library."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Ready:
    """A latch with named parts: ready when each was released, and never again once draining has begun."""

    def __init__(self, *parts: str) -> None:
        """Hold `parts`, in the order in which people should read them."""
        self._held = dict.fromkeys(parts)
        self._draining = False
        self._watching: list[Callable[[], object]] = []

    def release(self, part: str) -> None:
        """Let go of `part`; letting go twice is no error, of an unknown part is a bug."""
        self._held.pop(part, None)
        self._tell()

    def drain(self) -> None:
        """Stop being ready, for good."""
        self._draining = True
        self._tell()

    @contextlib.contextmanager
    def watched(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` whenever something may have changed, while the context lasts."""
        self._watching.append(tell)
        try:
            yield
        finally:
            self._watching.remove(tell)

    def _tell(self) -> None:
        for tell in self._watching:
            tell()

    @property
    def held(self) -> tuple[str, ...]:
        """What is still missing."""
        return (*self._held, *(("draining",) if self._draining else ()))


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(stop)` to its end on uvloop; SIGTERM and SIGINT set `stop`. Returns the exit code."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(body())
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.code
    return OK
