"""The cases that travel in a bundle: what it must answer before it may serve.

Rules: a case goes the very way of an action (`pdp.judge`), in a session made from the case; whatever is not known in a
case is an error, since a misspelt wish would always come true; no case at all proves nothing, and is an error too.

A case, in `cases/*.yaml`, each a list (or an object with defaults: `pdp/bundle/expanding.py`):

    - name: "a secret is not read"
      agent: coder
      tool: fs/read_file
      arguments: {path: /workspace/.env}
      claims: {reason: "to start the server"}        # optional, as are all that follow but `want`
      door_enforced: true
      time: 2026-01-05T10:00:00Z                     # RFC 3339; this Monday unless said
      session: {purpose: fix, labels: [untrusted_input], last_minute: {reads: 11, writes: 0}}
      want: {effect: deny, kind: forbidden, policies: [files.secret]}

What may be wanted stands in `pdp/bundle/wanted.py`, and each member's meaning in `exequatur/schemas/cases.schema.json`.
A session is the agent's first enforcer's, in the scope `*`, with the largest limits that the bundle allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from exequatur.action import DEFAULT_TENANT, Action, ActionError, Claims
from exequatur.trust.canonical import Json, JsonError, canonical
from pdp.bundle.expanding import Item, read_items
from pdp.bundle.wanted import Difference, Want, differences, in_words, read_want, reasons_in_words
from pdp.control.sessions import InvalidError, Wish
from pdp.engine.reading import Fields, PolicyError, sentence
from pdp.engine.snapshot import Snapshot
from pdp.judge import Outcome, judge
from pdp.model import Intent, LastMinute, Session
from pdp.policies import Standing

FOLDER: Final = "cases/"
A_MONDAY: Final = datetime(2026, 1, 5, 10, tzinfo=UTC)
NOBODY: Final = "nobody"
"""The enforcer of an agent that is not in the inventory, or has no enforcer."""

_ALWAYS: Final = datetime(9999, 1, 1, tzinfo=UTC)
_MOST: Final = 2**53 - 1
_TEXT: Final = 4096


@dataclass(frozen=True, slots=True)
class Run:
    """The session that a case is in."""

    id: str = "case"
    subject: str = ""
    delegation_chain: tuple[str, ...] = ()
    intent: Intent = field(default_factory=Intent)
    scope: tuple[str, ...] = ("*",)
    labels: tuple[str, ...] = ()
    steps: int = 0
    age_s: int = 0
    spent_microusd: int = 0
    calls: Mapping[str, int] | None = None
    reads_last_minute: int = 0
    writes_last_minute: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One case, and where it stands, as `file:line`."""

    where: str
    name: str
    action: Action
    time: datetime
    door_enforced: bool
    run: Run
    want: Want


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that did not come true, in words for whoever wrote it."""

    where: str
    name: str
    wanted: str
    got: str
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        """One line."""
        return f"`{self.where}`: case `{self.name}`: wanted {self.wanted}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Results:
    """How many cases ran, and those that failed."""

    total: int
    failures: tuple[Failure, ...]


def run(files: Mapping[str, bytes], snapshot: Snapshot) -> Results:
    """Run all cases in `files` on `snapshot`, as if it were signed, in force, and for the tenant of the cases.

    Raises `PolicyError` with file and line for a case that cannot be read, and when there is none.
    """
    proper = in_force(snapshot)
    cases = read(files)
    failures = (failure(case, judged(case, proper)) for case in cases)
    return Results(len(cases), tuple(each for each in failures if each is not None))


def in_force(snapshot: Snapshot) -> Snapshot:
    """Give the snapshot as cases see it: signed, in force, and for their tenant."""
    return replace(snapshot, signed=True, not_before=None, expires_at=_ALWAYS, tenant=DEFAULT_TENANT)


def read(files: Mapping[str, bytes]) -> tuple[Case, ...]:
    """Read all cases; raises `PolicyError` with file and line, also when there is none."""
    cases = tuple(
        _read_case(item) for file in sorted(files) if is_cases(file) for item in read_items(file, files[file])
    )
    if not cases:
        raise PolicyError(f"no case in `{FOLDER}*.yaml`: say what the policies must answer, at least once")
    return cases


def judged(case: Case, snapshot: Snapshot) -> Outcome:
    """Judge a case's action."""
    session = session_of(case.run, case.action, snapshot, case.time)
    return judge(
        case.action,
        session,
        Standing(snapshot),
        enforcer=session.enforcer,
        now=case.time,
        decision_id="case",
        door_enforced=case.door_enforced,
    )


def failure(case: Case, outcome: Outcome) -> Failure | None:
    """Say how a decision differs from what its case wants; None if it does not."""
    found = differences(case.want, outcome)
    if not found:
        return None
    return Failure(case.where, sentence(case.name), in_words(case.want), reasons_in_words(outcome.decision), found)


def session_of(run: Run, action: Action, snapshot: Snapshot, now: datetime) -> Session:
    """Make the session that `run` describes, of the action's agent instance and its first enforcer."""
    agent = snapshot.agents.get(action.agent)
    return Session(
        id=run.id,
        tenant=action.tenant,
        agent=action.agent,
        instance=action.instance,
        enforcer=agent.enforcers[0] if agent is not None and agent.enforcers else NOBODY,
        opened_at=now - timedelta(seconds=run.age_s),
        expires_at=now + timedelta(hours=1),
        max_steps=snapshot.limits.max_steps,
        budget_microusd=snapshot.limits.max_budget_microusd,
        subject=run.subject,
        delegation_chain=run.delegation_chain,
        intent=run.intent,
        scope=run.scope,
        labels=frozenset(run.labels),
        steps=run.steps,
        spent_microusd=run.spent_microusd,
        calls=run.calls or {},
        last_minute=LastMinute().counted(now, run.reads_last_minute, run.writes_last_minute),
    )


def read_run(where: str, value: Json, *, session_id: str = "case") -> Run:
    """Read a case's `session`; `where` opens each error. Raises `PolicyError`."""
    fields = Fields(where, value)
    last_minute = Fields(f"{where}: `last_minute`", fields.take("last_minute", {}))
    run = Run(
        id=session_id,
        subject=fields.text("subject", default=""),
        delegation_chain=_ordered(fields, "delegation_chain"),
        intent=Intent(_text(fields, "purpose"), _text(fields, "task"), fields.texts("domains")),
        scope=fields.texts("scope") if fields.take("scope") is not None else ("*",),
        labels=fields.texts("labels"),
        steps=fields.integer("steps", default=0, low=0, high=_MOST),
        age_s=fields.integer("age_s", default=0, low=0, high=10 * 365 * 86_400),
        spent_microusd=fields.integer("spent_microusd", default=0, low=0, high=_MOST),
        calls=_calls(fields),
        reads_last_minute=last_minute.integer("reads", default=0, low=0, high=_MOST),
        writes_last_minute=last_minute.integer("writes", default=0, low=0, high=_MOST),
    )
    last_minute.close()
    fields.close()
    wish = Wish(
        "default", "agent", "", "enforcer", timedelta(1), 0, 0, run.subject, run.delegation_chain, run.intent, run.scope
    )
    try:
        wish.check()
    except InvalidError as error:
        raise PolicyError(f"{where}: {error}") from None
    return run


def is_cases(file: str) -> bool:
    """Whether a file of the bundle holds cases."""
    return file.startswith(FOLDER) and file.endswith((".yaml", ".yml"))


def _read_case(item: Item) -> Case:
    where = item.where
    fields = Fields(f"`{where}`", item.value)
    name = fields.text("name")
    case = Case(
        where=where,
        name=name,
        action=_action(where, fields),
        time=_time(fields),
        door_enforced=_flag(fields, "door_enforced"),
        run=read_run(f"`{where}`: `session`", fields.take("session", {})),
        want=read_want(f"`{where}`: `want`", fields.take("want")),
    )
    fields.close()
    return case


def _action(where: str, fields: Fields) -> Action:
    claims = Fields(f"`{where}`: `claims`", fields.take("claims", {}))
    try:
        action = Action.parse(
            agent=fields.text("agent"),
            tool=fields.text("tool"),
            arguments_json=canonical(fields.take("arguments", {})),
            claims=Claims(
                reason=_text(claims, "reason"),
                cost_estimate_microusd=claims.integer("cost_estimate_microusd", default=0, low=0, high=_MOST),
                tokens=claims.integer("tokens", default=0, low=0, high=_MOST),
                model=claims.text("model", default=""),
                provenance=_ordered(claims, "provenance"),
            ),
            door="case",
        )
    except (ActionError, JsonError) as error:
        raise PolicyError(f"`{where}`: {error}") from None
    claims.close()
    return action


def _time(fields: Fields) -> datetime:
    text = fields.take("time")
    if text is None:
        return A_MONDAY
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise fields.error("time", "a time with its zone, such as `2026-01-05T10:00:00Z`")
    return time.astimezone(UTC)


def _flag(fields: Fields, name: str) -> bool:
    value = fields.take(name, False)
    if not isinstance(value, bool):
        raise fields.error(name, "true or false")
    return value


def _text(fields: Fields, name: str) -> str:
    """Give a text that may be longer than a name, and have lines."""
    value = fields.take(name, "")
    if not isinstance(value, str) or len(value) > _TEXT:
        raise fields.error(name, f"a text of at most {_TEXT} characters")
    return value


def _ordered(fields: Fields, name: str) -> tuple[str, ...]:
    """Give a list whose order counts."""
    value = fields.take(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise fields.error(name, "a list of texts")
    return tuple(str(item) for item in value)


def _calls(fields: Fields) -> dict[str, int]:
    value = fields.take("calls", {})
    if not isinstance(value, dict):
        raise fields.error("calls", "an object of counts by tool")
    calls = {tool: count for tool, count in value.items() if isinstance(count, int) and not isinstance(count, bool)}
    if len(calls) != len(value) or any(not 0 <= count <= _MOST for count in calls.values()):
        raise fields.error("calls", "an object of counts by tool")
    return calls
