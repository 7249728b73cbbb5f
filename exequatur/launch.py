"""From a daemon's command line to its life: its settings are loaded and run, or printed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from exequatur.daemon import CONFIG, OK, configure_logging, run
from exequatur.settings import Settings, SettingsError, describe

S = TypeVar("S", bound=Settings)


def serve(settings: type[S], argv: Sequence[str], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> int:
    """Load `settings` from flags, environment and file, and run `main` with them; returns the exit code."""
    found = _load(settings, argv)
    if found is None:
        return CONFIG
    configure_logging(found.log_level)
    return run(lambda stop: main(found, stop))


def config(settings: type[Settings], argv: Sequence[str]) -> int:
    """Print the settings that would be in force; returns the exit code."""
    found = _load(settings, argv, verb="config")
    if found is None:
        return CONFIG
    sys.stdout.write(describe(found))
    return OK


def _load(settings: type[S], argv: Sequence[str], *, verb: str = "") -> S | None:
    try:
        return settings.load(argv, os.environ, verb=verb)
    except SettingsError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)  # noqa: T201
        return None
