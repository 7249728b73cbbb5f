"""Agents that ask on and on through their sidecar, whoever is killed meanwhile, and remember what they were answered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from exequatur.client import CallError, Client
from stack import Stack, until

CALLERS = 8
REST_S, REFUSED_S = 0.01, 0.2
"""How long one rests after a go-ahead, and after anything else: a daemon that is away is not what shall cost time."""


class Agents:
    """Callers of one agent, each on a connection of its own, from now until `stop`."""

    def __init__(self, stack: Stack) -> None:
        """Begin to ask."""
        self.answered: list[str] = []
        """The decisions that were answered, by their ids."""
        self.allowed: list[str] = []
        """Those of them that were go-aheads."""
        self._stack, self._over, self._awake = stack, threading.Event(), threading.Event()
        self._awake.set()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with self._stack.agent() as client:
            while self._awake.wait() and not self._over.is_set():
                self._over.wait(REST_S if self._ask_once(client) else REFUSED_S)

    def _ask_once(self, client: Client) -> bool:
        try:
            decision = client.authorize("bank/look", {"account": "7"})
        except CallError:
            return False
        if decision.decision_id:  # what a sidecar denies by itself has none
            self.answered.append(decision.decision_id)
        if decision.allowed:
            self.allowed.append(decision.decision_id)
        return decision.allowed

    def go_on(self, count: int) -> None:
        """Wait for so many go-aheads more."""
        wanted = len(self.allowed) + count
        until(lambda: len(self.allowed) >= wanted, 60, "going on")

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Have nobody begin to ask while the context lasts: a machine that starts a daemon has enough to do."""
        self._awake.clear()
        try:
            yield
        finally:
            self._awake.set()

    def stop(self) -> Sequence[str]:
        """Ask no more; gives what was answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.answered
