"""How all workers come to serve another bundle together: each prepares it, and then all are told to commit to it.

Rules: pure, with neither clock nor process; the caller carries out what is given, in its order, and says what happens.
Nothing is committed to that a live worker has not prepared, nor while nobody has; the floor is raised before the first
worker is told to commit; whatever goes wrong before that leaves everything as it was, and says why. From then on the
bundle is in force: a worker that does not say that it serves it is ended, and its next life begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

ACTIVE: Final = "active"
CANDIDATE: Final = "candidate"

FILE_CODE: Final = "latin-1"
"""How a file's bytes are written as JSON text, so that they are the same bytes afterwards."""


@dataclass(frozen=True, slots=True)
class Order:
    """What workers are to serve, to a tenant's callers (`ACTIVE`) or beside that (`CANDIDATE`).

    `bundle` and `module` are paths of our copies, `digest` is in hex, `proved_at` RFC 3339; `opa` is where the bundle's
    OPA server is, a socket's path or the team's URL, and empty for a bundle without. `keys` are the files of the keys
    that it was verified by, None where nobody signed.
    """

    tenant: str
    role: str
    bundle: str
    module: str
    digest: str
    sequence: int
    proved_at: str
    opa: str = ""
    keys: tuple[tuple[str, str], ...] | None = None
    canary_percent: int = 0
    canary_max_stricter_percent: int = 0


class Verb(StrEnum):
    """What a worker is told about an order, or what is done with the worker."""

    PREPARE = "prepare"
    COMMIT = "commit"
    ABORT = "abort"
    END = "end"
    """End its process: its next life begins with what is in force."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to carry out: tell `worker` to do `verb` with `order`."""

    worker: int
    verb: Verb
    order: Order


class Refused(Exception):  # noqa: N818  a verdict on an order
    """Why an order does not come into force, in one sentence."""


class Stage(Enum):
    """How far an order has come."""

    IDLE = 0
    PREPARING = 1
    COMMITTING = 2
    """It is in force, and not every worker has said so yet."""


class Activation:
    """What is in force for one tenant in one role, and what is on its way there."""

    def __init__(self, raise_floor: Callable[[Order], None]) -> None:
        """Have nothing in force. `raise_floor` makes an order the lowest that may ever serve, or raises `Refused`."""
        self._raise_floor = raise_floor
        self.in_force: Order | None = None
        self.stage = Stage.IDLE
        self.fault = ""
        """Why the last order did not come into force; empty when it did."""
        self.pending: Order | None = None
        """What is being prepared."""
        self._waited: set[int] = set()
        self._prepared: set[int] = set()

    @property
    def behind(self) -> frozenset[int]:
        """The workers whose answer is waited for."""
        return frozenset(self._waited)

    def begin(self, order: Order, live: Collection[int]) -> list[Step]:
        """Have the `live` workers prepare `order`."""
        if self.stage is not Stage.IDLE:
            raise RuntimeError("another order is on its way")
        self.stage, self.fault, self.pending = Stage.PREPARING, "", order
        self._waited, self._prepared = set(live), set()
        return self._all(Verb.PREPARE, order, self._waited)

    def joined(self, worker: int) -> list[Step]:
        """Bring in a worker whose life has just begun."""
        steps: list[Step] = []
        if self.in_force is not None:
            steps += [Step(worker, Verb.PREPARE, self.in_force), Step(worker, Verb.COMMIT, self.in_force)]
        if self.stage is Stage.PREPARING and self.pending is not None:
            steps.append(Step(worker, Verb.PREPARE, self.pending))
        if self.stage is not Stage.IDLE:
            self._waited.add(worker)
        return steps

    def gone(self, worker: int) -> list[Step]:
        """Hear that a worker's life has ended."""
        self._waited.discard(worker)
        self._prepared.discard(worker)
        return self._go_on()

    def prepared(self, worker: int, digest: str) -> list[Step]:
        """Hear that a worker has prepared a bundle."""
        if self.stage is not Stage.PREPARING or not self._is_pending(digest) or worker not in self._waited:
            return []
        self._waited.discard(worker)
        self._prepared.add(worker)
        return self._go_on()

    def serving(self, worker: int, digest: str) -> list[Step]:
        """Hear that a worker serves a bundle."""
        if self.stage is Stage.COMMITTING and self.in_force is not None and self.in_force.digest == digest:
            self._waited.discard(worker)
            return self._go_on()
        return []

    def refused(self, worker: int, digest: str, reason: str) -> list[Step]:
        """Hear that a worker cannot serve a bundle."""
        if self.stage is Stage.PREPARING and self._is_pending(digest) and worker in self._waited:
            return self._abort(reason)
        if self.in_force is not None and self.in_force.digest == digest:
            return [Step(worker, Verb.END, self.in_force)]
        return []

    def late(self) -> list[Step]:
        """Hear that what is waited for has taken too long; whoever is waited for is ended."""
        order, waited = self.pending or self.in_force, frozenset(self._waited)
        steps = [] if order is None else self._all(Verb.END, order, waited)
        if self.stage is Stage.PREPARING:
            return self._abort("a worker did not prepare it in time" if waited else "no worker is there") + steps
        self._waited.clear()
        return self._go_on() + steps

    def drop(self) -> None:
        """Have nothing in force any more."""
        self.in_force = None

    def _is_pending(self, digest: str) -> bool:
        return self.pending is not None and self.pending.digest == digest

    def _go_on(self) -> list[Step]:
        if self._waited or self.stage is Stage.IDLE:
            return []
        if self.stage is Stage.COMMITTING:
            self.stage = Stage.IDLE
            return []
        order = self.pending
        if order is None or not self._prepared:
            return []  # nobody has prepared it: the next worker to begin is waited for
        try:
            self._raise_floor(order)
        except Refused as error:
            return self._abort(str(error))
        self.in_force, self.pending = order, None
        self.stage, self._waited = Stage.COMMITTING, self._prepared
        self._prepared = set()
        return self._all(Verb.COMMIT, order, self._waited)

    def _abort(self, reason: str) -> list[Step]:
        order, told = self.pending, self._waited | self._prepared
        self.stage, self.fault, self.pending = Stage.IDLE, reason, None
        self._waited, self._prepared = set(), set()
        return [] if order is None else self._all(Verb.ABORT, order, told)

    @staticmethod
    def _all(verb: Verb, order: Order, workers: Iterable[int]) -> list[Step]:
        return [Step(worker, verb, order) for worker in sorted(workers)]
