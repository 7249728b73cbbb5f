"""The store's tables and statements, and how their rows become values.

Rules: plain SQL through SQLAlchemy Core, nothing that one database alone can do but for the hints that say so; times
are microseconds since 1970 UTC.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from pdp.control.sessions import Fate, Held
from pdp.model import Intent, LastMinute, Reservation, Session

META: Final = sa.MetaData()

AnswerKey: TypeAlias = tuple[str, bytes, str]
"""Session id, action digest, idempotency key."""

Instance: TypeAlias = tuple[str, str, str]
"""Tenant, agent, instance."""

_NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # which counts by itself in this type alone

SESSIONS: Final = sa.Table(
    "sessions",
    META,
    sa.Column("number", _NUMBER, primary_key=True),  # the order of opening, whatever the clock said
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("instance_key", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("instance", sa.Text, nullable=False),
    sa.Column("enforcer", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("grant_json", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("closed_at", sa.BigInteger),
    sa.Column("max_steps", sa.BigInteger, nullable=False),
    sa.Column("budget_microusd", sa.BigInteger, nullable=False),
    sa.Column("steps", sa.BigInteger, nullable=False),
    sa.Column("spent_microusd", sa.BigInteger, nullable=False),
    sa.Column("reserved_microusd", sa.BigInteger, nullable=False),
    sa.Column("labels_json", sa.Text, nullable=False),
    sa.Column("calls_json", sa.Text, nullable=False),
    sa.Column("last_minute_json", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Index("sessions_of_instance", "instance_key", "number"),
)
_OPEN: Final = SESSIONS.c.closed_at.is_(None)

RESERVATIONS: Final = sa.Table(
    "reservations",
    META,
    sa.Column("decision_id", sa.Text, primary_key=True),
    sa.Column("session", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("enforcer", sa.Text, nullable=False),
    sa.Column("amount_microusd", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("fate", sa.Text, nullable=False),
    sa.Column("charged_microusd", sa.BigInteger, nullable=False),
)
_HELD: Final = RESERVATIONS.c.fate == sa.literal_column(f"'{Fate.HELD.value}'")

_PARTIAL: Final = (
    # At most one session of an instance is not closed: the database says so too.
    (sa.Index("sessions_open", SESSIONS.c.instance_key, unique=True), _OPEN),
    (sa.Index("reservations_held", RESERVATIONS.c.expires_at), _HELD),
)
"""Indexes over the rows for which something holds. Whoever names a database here has SQLAlchemy import it."""

ANSWERS: Final = sa.Table(
    "answers",
    META,
    sa.Column("answer_key", sa.LargeBinary, primary_key=True),
    sa.Column("session", sa.Text, nullable=False),
    sa.Column("decision_id", sa.Text, nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Index("answers_of_decision", "decision_id"),
)

FLOORS: Final = sa.Table(
    "floors",
    META,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
)

HALTED: Final = sa.Table(
    "halted_candidates",
    META,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
)

KEY_POLICIES: Final = sa.Table("key_policies", META, sa.Column("tenant", sa.Text, primary_key=True))
"""The tenants whose key folders have had a `keys.json`."""

SESSION_BY_ID: Final = sa.select(SESSIONS).where(SESSIONS.c.id.in_(sa.bindparam("ids", expanding=True)))
SESSION_BY_INSTANCE: Final = sa.select(SESSIONS).where(
    SESSIONS.c.closed_at.is_(None), SESSIONS.c.instance_key.in_(sa.bindparam("keys", expanding=True))
)
LAST_SESSION: Final = (
    sa.select(SESSIONS)
    .where(SESSIONS.c.instance_key == sa.bindparam("key"))
    .order_by(SESSIONS.c.number.desc())
    .limit(1)
)
RESERVATION_BY_ID: Final = sa.select(RESERVATIONS).where(
    RESERVATIONS.c.decision_id.in_(sa.bindparam("ids", expanding=True))
)
OVERDUE: Final = (
    sa.select(RESERVATIONS)
    .where(_HELD, RESERVATIONS.c.expires_at <= sa.bindparam("now"))
    .order_by(RESERVATIONS.c.expires_at)
    .limit(sa.bindparam("limit"))
)
OVERDUE_OF: Final = OVERDUE.where(RESERVATIONS.c.session.in_(sa.bindparam("sessions", expanding=True)))
ANSWER_BY_KEY: Final = sa.select(ANSWERS).where(ANSWERS.c.answer_key.in_(sa.bindparam("keys", expanding=True)))
REPLACE_SESSION: Final = (
    sa.update(SESSIONS)
    .where(SESSIONS.c.id == sa.bindparam("b_id"), SESSIONS.c.version == sa.bindparam("b_version"))
    .values(
        closed_at=sa.bindparam("b_closed_at"),
        steps=sa.bindparam("b_steps"),
        spent_microusd=sa.bindparam("b_spent"),
        reserved_microusd=sa.bindparam("b_reserved"),
        labels_json=sa.bindparam("b_labels"),
        calls_json=sa.bindparam("b_calls"),
        last_minute_json=sa.bindparam("b_last_minute"),
        version=sa.bindparam("b_next"),
    )
)
FINISH: Final = (
    sa.update(RESERVATIONS)
    .where(RESERVATIONS.c.decision_id == sa.bindparam("b_id"))
    .values(fate=sa.bindparam("b_fate"), charged_microusd=sa.bindparam("b_charged"))
)
DROP_ANSWERS: Final = sa.delete(ANSWERS).where(ANSWERS.c.decision_id.in_(sa.bindparam("ids", expanding=True)))
_OVER: Final = sa.select(SESSIONS.c.id).where(
    sa.func.coalesce(SESSIONS.c.closed_at, SESSIONS.c.expires_at) < sa.bindparam("before")
)
_FINISHED: Final = sa.select(RESERVATIONS.c.decision_id).where(
    RESERVATIONS.c.fate != Fate.HELD.value, RESERVATIONS.c.expires_at < sa.bindparam("before")
)
# An answer is kept as long as its session could repeat the call: a forgotten one would be a second go-ahead.
_UNREPEATABLE: Final = sa.select(ANSWERS.c.answer_key).where(ANSWERS.c.session.in_(_OVER))
PRUNE: Final = (
    sa.delete(RESERVATIONS).where(RESERVATIONS.c.decision_id.in_(_FINISHED.limit(sa.bindparam("limit")))),
    sa.delete(ANSWERS).where(ANSWERS.c.answer_key.in_(_UNREPEATABLE.limit(sa.bindparam("limit")))),
)


def make(connection: sa.Connection) -> None:
    """Make the tables that are missing, as the connection's database has them said."""
    for index, where in _PARTIAL:
        index.dialect_options[connection.dialect.name]["where"] = where
    META.create_all(connection)


def micros(time: datetime) -> int:
    """Write a time as a column has it."""
    return int((time - _EPOCH) / timedelta(microseconds=1))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(micros: int) -> datetime:
    """Read a time from a column."""
    return _EPOCH + timedelta(microseconds=micros)


def instance_key(instance: Instance) -> str:
    """Write an instance as one column: SQLite searches no index for a list of triples."""
    return json.dumps(instance)


def answer_key(key: AnswerKey) -> bytes:
    """Write an answer's key as one column, for the same reason; ids and digests have one length each."""
    session, digest, idempotency_key = key
    return session.encode() + digest + idempotency_key.encode()


def session_row(session: Session) -> dict[str, Any]:
    """Write a whole session, as it is opened."""
    return {
        "id": session.id,
        "instance_key": instance_key((session.tenant, session.agent, session.instance)),
        "tenant": session.tenant,
        "agent": session.agent,
        "instance": session.instance,
        "enforcer": session.enforcer,
        "subject": session.subject,
        "grant_json": json.dumps(
            {
                "delegation_chain": session.delegation_chain,
                "purpose": session.intent.purpose,
                "task": session.intent.task,
                "domains": session.intent.domains,
                "scope": session.scope,
            }
        ),
        "opened_at": micros(session.opened_at),
        "expires_at": micros(session.expires_at),
        "closed_at": None if session.closed_at is None else micros(session.closed_at),
        "max_steps": session.max_steps,
        "budget_microusd": session.budget_microusd,
        "steps": session.steps,
        "spent_microusd": session.spent_microusd,
        "reserved_microusd": session.reserved_microusd,
        "labels_json": json.dumps(sorted(session.labels)),
        "calls_json": json.dumps(dict(session.calls)),
        "last_minute_json": json.dumps(session.last_minute.seconds),
        "version": session.version,
    }


def session_change(session: Session) -> dict[str, Any]:
    """Write what of a session changes, as the parameters of `REPLACE_SESSION`."""
    return {
        "b_id": session.id,
        "b_version": session.version,
        "b_next": session.version + 1,
        "b_closed_at": None if session.closed_at is None else micros(session.closed_at),
        "b_steps": session.steps,
        "b_spent": session.spent_microusd,
        "b_reserved": session.reserved_microusd,
        "b_labels": json.dumps(sorted(session.labels)),
        "b_calls": json.dumps(dict(session.calls)),
        "b_last_minute": json.dumps(session.last_minute.seconds),
    }


def session_of(row: Any) -> Session:
    """Read a session."""
    grant = json.loads(row.grant_json)
    return Session(
        id=row.id,
        tenant=row.tenant,
        agent=row.agent,
        instance=row.instance,
        enforcer=row.enforcer,
        opened_at=time_of(row.opened_at),
        expires_at=time_of(row.expires_at),
        max_steps=row.max_steps,
        budget_microusd=row.budget_microusd,
        subject=row.subject,
        delegation_chain=tuple(grant["delegation_chain"]),
        intent=Intent(grant["purpose"], grant["task"], tuple(grant["domains"])),
        scope=tuple(grant["scope"]),
        closed_at=None if row.closed_at is None else time_of(row.closed_at),
        labels=frozenset(json.loads(row.labels_json)),
        steps=row.steps,
        spent_microusd=row.spent_microusd,
        reserved_microusd=row.reserved_microusd,
        calls=json.loads(row.calls_json),
        last_minute=LastMinute(
            tuple((second, reads, writes) for second, reads, writes in json.loads(row.last_minute_json))
        ),
        version=row.version,
    )


def reservation_row(item: Reservation) -> dict[str, Any]:
    """Write a new reservation."""
    return {
        "decision_id": item.decision_id,
        "session": item.session,
        "tenant": item.tenant,
        "enforcer": item.enforcer,
        "amount_microusd": item.amount_microusd,
        "expires_at": micros(item.expires_at),
        "fate": Fate.HELD.value,
        "charged_microusd": 0,
    }


def held_of(row: Any) -> Held:
    """Read a reservation and what became of it."""
    return Held(
        Reservation(
            row.decision_id, row.session, row.tenant, row.enforcer, row.amount_microusd, time_of(row.expires_at)
        ),
        Fate(row.fate),
        row.charged_microusd,
    )
