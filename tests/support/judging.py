"""A decision point's parts for tests: a snapshot whose engine says what the test says, actions, sessions, a clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from exequatur.action import Action, Claims
from exequatur.registry import Registry
from exequatur.trust.canonical import canonical
from pdp.engine.document import Facts
from pdp.engine.inventory import Agents, Limits
from pdp.engine.manifest import EngineSpec, Manifest, Role
from pdp.engine.snapshot import Snapshot
from pdp.model import Effect, Reason, ReasonKind, Session, Verdict
from policies import AGENTS, NOW, REPOSITORY, STRING, as_json, tool

ENFORCER = "spiffe://example.com/sidecar/coder"
OTHER = "spiffe://example.com/sidecar/other"
HOUR = dt.timedelta(hours=1)

TOOLS: dict[str, Any] = {
    "git/log": tool("git", "log", {"repo_path": STRING}, ["repo_path"], access="read", **REPOSITORY),
    "git/push": tool(
        "git",
        "push",
        {"repo_path": STRING},
        ["repo_path"],
        access="write",
        egress=True,
        labels=["left_house"],
        price_microusd=100,
        **REPOSITORY,
    ),
}
REGISTRY = Registry.parse(as_json({"tools": TOOLS}))
INVENTORY = Agents.parse(
    as_json({"agents": {**AGENTS, "coder": {**AGENTS["coder"], "enforcers": [ENFORCER, "unsafe:plaintext"]}}})
)

PERMIT = Verdict("cedar", Effect.ALLOW, (Reason(ReasonKind.PERMITTED, "it is permitted", "p1", "cedar"),))


def says(effect: Effect, kind: ReasonKind = ReasonKind.FORBIDDEN, text: str = "because") -> Verdict:
    """Give a verdict with one reason."""
    return Verdict("cedar", effect, (Reason(kind, text, "p1", "cedar", "ASI02"),))


class Scripted:
    """An engine that gives one verdict, or calls the test."""

    def __init__(self, answer: Verdict | Callable[[Facts], Verdict]) -> None:
        self._answer = answer
        self.seen: list[Facts] = []

    def judge(self, facts: Facts) -> Verdict:
        self.seen.append(facts)
        return self._answer(facts) if callable(self._answer) else self._answer


def snapshot(answer: Verdict | Callable[[Facts], Verdict] = PERMIT, **changes: Any) -> Snapshot:
    """Give a snapshot with one scripted engine that decides."""
    spec = EngineSpec("cedar", Role.DECIDE)
    fields: dict[str, Any] = {
        "digest": b"\1" * 32,
        "sequence": 7,
        "expires_at": NOW + 24 * HOUR,
        "not_before": None,
        "signed": True,
        "tenant": "default",
        "revision": "r1",
        "registry": REGISTRY,
        "agents": INVENTORY,
        "limits": Limits(),
        "manifest": Manifest("test", (spec,)),
        "engines": ((spec, Scripted(answer)),),
        **changes,
    }
    return Snapshot(**fields)


def action(tool_name: str = "git/log", arguments: dict[str, Any] | None = None, **changes: Any) -> Action:
    """Give an action of `coder`."""
    arguments = {"repo_path": "/work"} if arguments is None else arguments
    fields: dict[str, Any] = {
        "agent": "coder",
        "instance": "i1",
        "tool": tool_name,
        "arguments_json": canonical(arguments),
        "claims": Claims(cost_estimate_microusd=changes.pop("cost", 0)),
        "door": "grpc",
        **changes,
    }
    return Action.parse(**fields)


def session(**changes: Any) -> Session:
    """Give an open session of `coder`."""
    fields: dict[str, Any] = {
        "id": "s1",
        "tenant": "default",
        "agent": "coder",
        "instance": "i1",
        "enforcer": ENFORCER,
        "opened_at": NOW - HOUR,
        "expires_at": NOW + HOUR,
        "max_steps": 10,
        "budget_microusd": 1000,
        "subject": "anna@example.com",
        "scope": ("git/*",),
        **changes,
    }
    return Session(**fields)
