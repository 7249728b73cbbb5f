"""The document that policy sees: the same facts, in one projection for each language.

Rules: trusted facts and claims never mix; what Cedar cannot hold is left out and named in `context.untyped`; a value is
put where its declared type says, so that nothing in an argument can become an entity or an extension value.
The version of these projections is `DOCUMENT_VERSION` in `pdp/engine/manifest.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from exequatur.action import Claims
from exequatur.registry import Resource, Tool
from exequatur.trust.canonical import Json
from pdp.engine.inventory import Agent
from pdp.engine.schema import BOOL, DECIMAL, LONG, STRING, CedarType, RecordOf, Scalar, SetOf
from pdp.model import Session

LEFT_OUT: Final = object()
"""What `held` gives for a value that Cedar cannot hold."""

_PYTHON: Final[Mapping[Scalar, type]] = {STRING: str, LONG: int, BOOL: bool}
_DECIMAL_LIMIT: Final = Decimal(922_337_203_685_477)
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that an action is judged by. `now` is aware; `door` is `enforced` or `cooperative`."""

    agent: Agent
    session: Session
    tool: Tool
    resource: Resource
    input: Mapping[str, Json]
    claims: Claims
    now: datetime
    door: str


def rego_document(facts: Facts) -> dict[str, Any]:
    """Give the input document for Rego: JSON as it is, the arguments as `input.input`."""
    agent = facts.agent
    return {
        "agent": {
            "id": agent.id,
            "owner": agent.owner,
            "version": agent.version,
            "models": agent.models,
            "teams": agent.teams,
            "environment": agent.environment,
            "domains": agent.domains,
        },
        "session": session_facts(facts),
        "tool": tool_facts(facts),
        "resource": {
            "type": facts.resource.type,
            "id": facts.resource.id,
            "attributes": dict(facts.resource.attributes),
        },
        "input": dict(facts.input),
        "claims": claims_facts(facts),
        "request": request_facts(facts),
    }


def cedar_context(facts: Facts, type_: RecordOf, arguments: RecordOf, untyped: list[str]) -> dict[str, Any]:
    """Give the context for Cedar: the parts and members that `type_` has, the arguments as `context.input`.

    `arguments` is the type of all arguments; `untyped` gets the names of what is left out, and may come with names in
    it. Calls of tools that the type does not know, from under an older bundle, are left out: no policy asks for them.
    """
    wanted = type_.members
    # What cannot be held is known only once all arguments were gone through.
    arguments_held = held(arguments, dict(facts.input), "", untyped) if {"input", "untyped"} & wanted.keys() else {}
    parts: dict[str, Any] = {}
    for name, member in wanted.items():
        if isinstance(member.type, RecordOf):
            part = arguments_held if name == "input" else _PARTS[name](facts)
            parts[name] = {key: value for key, value in part.items() if key in member.type.members}
            if name == "session" and "calls" in parts[name]:
                known = member.type.members["calls"].type
                parts[name]["calls"] = _calls(facts, known.members) if isinstance(known, RecordOf) else {}
        else:
            parts[name] = untyped
    return parts


def _calls(facts: Facts, tools: Container[str]) -> dict[str, int]:
    return {tool: count for tool, count in facts.session.calls.items() if tool in tools}


def held(type_: CedarType, value: Json, path: str, untyped: list[str]) -> Any:
    """Give a value as Cedar's JSON for a type, or `LEFT_OUT` if the type cannot hold it; its path goes to `untyped`.

    A list of more than one item loses its order: it is held, and named all the same. Nothing that comes out of a
    text or an argument's object is an escape: members are the type's own, and those are never reserved names.
    """
    if isinstance(type_, RecordOf) and isinstance(value, dict):
        return _record(type_, value, path, untyped)
    if isinstance(type_, SetOf) and isinstance(value, list):
        return _set(type_, value, path, untyped)
    if type_ == DECIMAL:
        return _decimal(value, path, untyped)
    fits = isinstance(type_, Scalar) and type(value) is _PYTHON.get(type_)
    return value if fits else _left_out(path, untyped)


def _record(type_: RecordOf, value: dict[str, Json], path: str, untyped: list[str]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, item in value.items():
        here = f"{path}.{name}" if path else name
        member = type_.members.get(name)
        found = _left_out(here, untyped) if member is None else held(member.type, item, here, untyped)
        if found is not LEFT_OUT:
            members[name] = found
    return members


def _set(type_: SetOf, value: list[Json], path: str, untyped: list[str]) -> Any:
    lost: list[str] = []
    items = [held(type_.item, item, path, lost) for item in value]
    if any(item is LEFT_OUT for item in items):
        return _left_out(path, untyped)
    if lost or len(items) > 1:
        untyped.append(path)
    return items


def _decimal(value: Json, path: str, untyped: list[str]) -> Any:
    """Give a number as Cedar's decimal: four places, 64 bits (https://docs.cedarpolicy.com/policies/syntax-datatypes.html)."""
    if type(value) is not int and type(value) is not float:
        return _left_out(path, untyped)
    exact = Decimal(repr(value))
    if abs(exact) >= _DECIMAL_LIMIT or exact != round(exact, 4):
        return _left_out(path, untyped)
    return {"__extn": {"fn": "decimal", "arg": f"{exact:.4f}"}}


def _left_out(path: str, untyped: list[str]) -> object:
    untyped.append(path)
    return LEFT_OUT


def session_facts(facts: Facts) -> dict[str, Any]:
    """Give the session: what it is for, and how far it has come. Where there is no delegation, names are empty."""
    session = facts.session
    chain = session.delegation_chain
    reads, writes = session.last_minute.totals(facts.now)
    return {
        "id": session.id,
        "subject": session.subject,
        "delegation_root": chain[0] if chain else "",
        "delegation_parent": chain[-1] if chain else "",
        "delegation_depth": len(chain),
        "intent": {
            "purpose": session.intent.purpose,
            "task": session.intent.task,
            "domains": session.intent.domains,
        },
        "labels": sorted(session.labels),
        "steps": session.steps,
        "age_s": max(0, int((facts.now - session.opened_at).total_seconds())),
        "spent_microusd": session.spent_microusd,
        "calls": dict(session.calls),
        "last_minute": {"reads": reads, "writes": writes},
    }


def tool_facts(facts: Facts) -> dict[str, Any]:
    """Give the tool as the registry knows it, with the door that the channel proved."""
    tool = facts.tool
    return {
        "server": tool.server,
        "name": tool.name,
        "access": tool.access,
        "bulk": tool.bulk,
        "dangerous": tool.dangerous,
        "data_classes": tool.data_classes,
        "egress": tool.egress,
        "environment": tool.environment,
        "door": facts.door,
    }


def claims_facts(facts: Facts) -> dict[str, Any]:
    """Give what the agent says of itself; nobody has checked it."""
    claims = facts.claims
    return {
        "reason": claims.reason,
        "cost_estimate_microusd": claims.cost_estimate_microusd,
        "tokens": claims.tokens,
        "model": claims.model,
        "provenance": claims.provenance,
    }


def request_facts(facts: Facts) -> dict[str, Any]:
    """Give the decision's own time in UTC; the text has milliseconds and sorts as time does."""
    utc = facts.now.astimezone(UTC)
    time = utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"
    return {"time": time, "weekday": _WEEKDAYS[utc.weekday()], "hour": utc.hour}


_PARTS: Final[Mapping[str, Callable[[Facts], dict[str, Any]]]] = {
    "session": session_facts,
    "tool": tool_facts,
    "claims": claims_facts,
    "request": request_facts,
}
