"""Pairs of tiny bundles that differ in one thing: Cedar alone, so that none of them needs `opa`."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from exequatur.registry import definition_sha256
from exequatur.trust.bundle import VerifiedBundle
from pdp.bundle import cases
from pdp.engine.snapshot import Snapshot
from pdp.policy.diff import flips, meaning
from pdp.policy.diff.change import Change
from pdp.policy.diff.flips import Sides
from pdp.policy.opening import Opened
from policies import STRING, tool

TOOLS = {
    "git/log": tool("git", "log", {"repo": STRING}, ["repo"], access="read", labels=["untrusted_input"]),
    "git/commit": tool("git", "commit", {"repo": STRING}, ["repo"], access="write", resource={"type": "Repository"}),
    "crm/search": tool(
        "crm", "search", {"query": STRING}, ["query"], access="read", bulk=True, egress=True, data_classes=["pii"]
    ),
    "mail/send": tool(
        "mail",
        "send",
        {"to": STRING, "text": STRING},
        ["to", "text"],
        access="write",
        egress=True,
        price_microusd=1000,
        arguments={"to": {"kind": "host"}},
    ),
    "bank/pay": tool(
        "bank",
        "pay",
        {
            "amount": {"type": "integer", "minimum": 1, "maximum": 1000},
            "currency": {"type": "string", "enum": ["EUR", "USD"], "maxLength": 3},
            "copies": {"type": "integer"},
            "memo": {"type": "string", "pattern": "^[a-z ]*$"},
        },
        ["amount", "currency"],
        access="write",
        environment="prod",
    ),
}
AGENTS = {
    "coder": {
        "owner": "platform@example.com",
        "version": "1",
        "models": ["small"],
        "teams": ["engineering"],
        "environment": "dev",
        "domains": ["code"],
        "enforcers": ["spiffe://example.com/coder"],
    },
    "clerk": {
        "owner": "sales@example.com",
        "teams": ["sales", "interns"],
        "environment": "prod",
        "enforcers": ["spiffe://example.com/clerk"],
    },
}
AGENTS["temp"] = {"owner": "sales@example.com", "teams": ["interns"]}
CEDAR = {
    "reads": 'permit (principal in Team::"engineering", action in Action::"read", resource);',
    "works": """permit (principal in Team::"engineering", action in [Action::"git/commit", Action::"mail/send"], resource)
        when { context.session.steps < 50 && context.session.intent.purpose == "fix" };""",
    "pays": '@obligation("receipt") permit (principal in Team::"sales", action == Action::"bank/pay", resource);',
    "tainted": """forbid (principal, action in Action::"egress", resource)
        when { context.session.labels.contains("untrusted_input") };""",
    "big": """@effect("require_approval") @approvers("cfo,treasury")
        forbid (principal, action == Action::"bank/pay", resource) when { context.input.amount > 100 };""",
    "late": """@effect("warn") forbid (principal, action in Action::"write", resource) when { context.request.hour > 20 };""",
    "new": 'forbid (principal in Team::"interns", action, resource) unless { context.session.steps < 10 };',
}
LINK = {"id": "quiet", "template": "hush", "principal": {"type": "Agent", "id": "clerk"}}
HUSH = """@id("hush") forbid (principal == ?principal, action == Action::"mail/send", resource)
    when { context.session.subject == "" };"""
CASES = [
    {"name": "a log is read", "agent": "coder", "tool": "git/log", "arguments": {"repo": "a"}},
    {
        "name": "a commit is made",
        "agent": "coder",
        "tool": "git/commit",
        "arguments": {"repo": "a"},
        "session": {"purpose": "fix"},
    },
    {
        "name": "mail after a stranger's words",
        "agent": "coder",
        "tool": "mail/send",
        "arguments": {"to": "example.com", "text": "hello"},
        "session": {"purpose": "fix", "labels": ["untrusted_input"]},
    },
    {
        "name": "much is paid",
        "agent": "clerk",
        "tool": "bank/pay",
        "arguments": {"amount": 200, "currency": "EUR"},
    },
    {
        "name": "little is paid",
        "agent": "clerk",
        "tool": "bank/pay",
        "arguments": {"amount": 50, "currency": "EUR"},
    },
]


@dataclass
class Draft:
    """A bundle that can be edited."""

    tools: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(TOOLS))
    agents: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(AGENTS))
    limits: dict[str, int] = field(
        default_factory=lambda: {"max_steps": 100, "max_budget_microusd": 10_000_000, "max_lifetime_s": 3600}
    )
    settings: dict[str, Any] = field(
        default_factory=lambda: {
            "document_version": 1,
            "name": "tiny",
            "engines": [{"engine": "cedar", "role": "decide"}],
            "outage": {"max_s": 60},
        }
    )
    cedar: dict[str, str] = field(default_factory=lambda: dict(CEDAR))
    templates: str = HUSH
    links: list[Any] = field(default_factory=lambda: [copy.deepcopy(LINK)])
    cases: list[Any] = field(default_factory=lambda: copy.deepcopy(CASES))
    more: dict[str, bytes] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """Give the sources."""
        wanted = [{"want": {"effect": "allow"}, **each} for each in self.cases]
        return {
            "tools.json": json.dumps({"tools": {name: _pinned(each) for name, each in self.tools.items()}}).encode(),
            "agents.json": json.dumps({"agents": self.agents}).encode(),
            "limits.json": json.dumps(self.limits).encode(),
            "exequatur.json": json.dumps(self.settings).encode(),
            "rules.cedar": "\n".join(f'@id("{name}")\n{text}' for name, text in self.cedar.items()).encode(),
            "templates.cedar": self.templates.encode(),
            **({"links.json": json.dumps({"links": self.links}).encode()} if self.links else {}),
            "cases/all.yaml": json.dumps(wanted).encode(),
            **self.more,
        }

    def schema(self, name: str) -> dict[str, Any]:
        """Give the input schema of a tool, to be edited."""
        found: dict[str, Any] = self.tools[name]["definition"]["inputSchema"]
        return found


def _pinned(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "definition_sha256": definition_sha256(entry["definition"]).hex()}


Edit = Callable[[Draft], object]


def edited(edit: Edit | None = None) -> Draft:
    """Give the usual bundle, edited."""
    draft = Draft()
    if edit is not None:
        edit(draft)
    return draft


def side(files: dict[str, bytes]) -> Opened:
    """Open sources of Cedar alone; they are not packed first, which is what takes long."""
    return _side(tuple(sorted(files.items())))


@functools.cache
def _side(files: tuple[tuple[str, bytes], ...]) -> Opened:
    bundle = VerifiedBundle(
        files=dict(files),
        digest=bytes(32),
        sequence=0,
        expires_at=datetime(9999, 1, 1, tzinfo=UTC),
        not_before=None,
        tenant="default",
        kids=(),
        owners=(),
        revision="",
        signed=True,
    )
    return Opened(bundle.files, cases.in_force(Snapshot.load(bundle)), None)


@functools.cache
def usual() -> Opened:
    """Give the usual bundle."""
    return side(Draft().files())


def written(old: Opened, new: Opened) -> dict[str, Change]:
    """Give what differs in what is declared and written, by id."""
    return _by_id(list(meaning.changes(old, new, packed=(False, False))))


def found(old: Opened, new: Opened) -> dict[str, Change]:
    """Give what is written otherwise, and what the cases show, by id."""
    sides = Sides(old.snapshot, new.snapshot)
    flipped = (sides.flip(name, case) for name, case in flips.named(cases.read(old.files), cases.read(new.files)))
    return _by_id([*written(old, new).values(), *filter(None, flipped)])


def _by_id(changes: list[Change]) -> dict[str, Change]:
    by_id = {change.id: change for change in changes}
    assert len(by_id) == len(changes), "two changes by one id"
    return by_id
