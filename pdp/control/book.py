"""The book of one round: what was read, and what has changed since, so that item n sees what items before it did.

Rules: the store is asked once for each thing; a change is seen by every later look; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from pdp.control.sessions import Fate, Held, NotFoundError, finish, unfinish
from pdp.control.store import Changes, View
from pdp.control.tables import AnswerKey, Instance
from pdp.model import Reservation, Session


class Book:
    """Sessions, reservations and answers as one round sees them. `changes` is what is to be written."""

    def __init__(self, view: View, now: datetime) -> None:
        """Start on `view`; `now` is the round's time."""
        self.now = now
        self.changes = Changes()
        self._view = view
        self._sessions: dict[str, Session | None] = {}
        self._open: dict[Instance, str | None] = {}
        self._held: dict[str, Held | None] = {}
        self._answers: dict[AnswerKey, bytes | None] = {}

    def fetch(self, ids: Collection[str], instances: Collection[Instance]) -> None:
        """Read many sessions at once: by id, and the open ones of instances."""
        ids = [key for key in ids if key not in self._sessions]
        found = self._view.sessions(ids)
        self._sessions.update({key: found.get(key) for key in ids})
        instances = [key for key in instances if key not in self._open]
        opened = self._view.open_sessions(instances)
        for key in instances:
            session = opened.get(key)
            self._open[key] = None if session is None else session.id
            if session is not None:
                self._sessions.setdefault(session.id, session)

    def fetch_answers(self, keys: Collection[AnswerKey]) -> None:
        """Read many answers at once."""
        keys = [key for key in keys if key not in self._answers]
        found = self._view.answers(keys)
        self._answers.update({key: found.get(key) for key in keys})

    def session(self, session_id: str) -> Session | None:
        """Look a session up by its id."""
        self.fetch((session_id,), ())
        return self._sessions[session_id]

    def open_session(self, instance: Instance) -> Session | None:
        """Look up the session of `instance` that nobody has closed; it may have expired."""
        self.fetch((), (instance,))
        session_id = self._open[instance]
        return None if session_id is None else self._sessions[session_id]

    def last_session(self, instance: Instance) -> Session | None:
        """Look up the newest session of `instance`, over or not."""
        if (session := self.open_session(instance)) is not None:
            return session
        last = self._view.last_session(instance)
        return None if last is None else self._sessions.setdefault(last.id, last)

    def holding(self) -> tuple[str, ...]:
        """Name the sessions that this round has looked at and that hold money."""
        return tuple(item.id for item in self._sessions.values() if item is not None and item.reserved_microusd)

    def open(self, session: Session) -> None:
        """Add a new session."""
        self.changes.opened[session.id] = session
        self._sessions[session.id] = session
        self._open[session.tenant, session.agent, session.instance] = session.id

    def put(self, session: Session) -> None:
        """Replace a session by what it has become."""
        changed = self.changes.opened if session.id in self.changes.opened else self.changes.sessions
        changed[session.id] = self._sessions[session.id] = session
        instance = (session.tenant, session.agent, session.instance)
        if session.closed_at is not None and self._open.get(instance) == session.id:  # a later one may be open by now
            self._open[instance] = None

    def reserve(self, reservation: Reservation) -> None:
        """Hold money for an allowed action."""
        self.changes.reserved[reservation.decision_id] = reservation
        self._held[reservation.decision_id] = Held(reservation)

    def held(self, decision_id: str) -> Held | None:
        """Look a reservation up by its decision's id."""
        if decision_id not in self._held:
            self._held[decision_id] = self._view.reservations((decision_id,)).get(decision_id)
        return self._held[decision_id]

    def overdue(self, limit: int, sessions: Collection[str] | None = None) -> tuple[Held, ...]:
        """Find held reservations that have expired, of `sessions` alone where they are given."""
        found = self._view.overdue(self.now, limit, sessions)
        current = (self._held.setdefault(key, held) for key, held in found.items())
        return tuple(held for held in current if held is not None and held.fate is Fate.HELD)

    def finish(self, held: Held, fate: Fate, cost_microusd: int) -> Held:
        """Settle, release or charge a reservation, in the session's sums too; raises `WrongStateError`."""
        session, after = finish(self._session_of(held), held, fate, cost_microusd)
        return self._replace(session, after)

    def unfinish(self, held: Held) -> Held:
        """Hold a reservation again, as if nothing had become of it."""
        return self._replace(*unfinish(self._session_of(held), held))

    def answer(self, key: AnswerKey) -> bytes | None:
        """Look up what was answered to an idempotency key."""
        self.fetch_answers((key,))
        return self._answers[key]

    def remember(self, key: AnswerKey, decision_id: str, answer: bytes) -> None:
        """Keep what is answered to an idempotency key."""
        self.changes.answers[key] = (decision_id, answer)
        self._answers[key] = answer

    def forget(self, decision_ids: Collection[str]) -> None:
        """Drop the answers with these decisions."""
        self.changes.dropped_answers.update(decision_ids)

    def _session_of(self, held: Held) -> Session:
        session = self.session(held.reservation.session)
        if session is None:
            raise NotFoundError("the session of this decision is gone")
        return session

    def _replace(self, session: Session, held: Held) -> Held:
        self.put(session)
        self._held[held.reservation.decision_id] = self.changes.finished[held.reservation.decision_id] = held
        return held
