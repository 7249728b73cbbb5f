"""One rule set in Cedar and in Rego: whatever the action is, both decide the same, for the same reasons."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from exequatur.action import Claims
from exequatur.registry import Registry
from pdp.engine.cedar import CedarEngine
from pdp.engine.document import Facts
from pdp.engine.rego import RegoEngine
from pdp.model import Effect, Intent, ReasonKind
from policies import STRING, agents, facts, registry, rego, tool

TOOLS = {
    "bank/pay": tool(
        "bank",
        "pay",
        {
            "to": STRING,
            "cents": {"type": "integer"},
            "rate": {"type": "number"},
            "urgent": {"type": ["boolean", "null"]},
            "tags": {"type": "array", "items": STRING},
            "note": {"type": "object", "properties": {"text": STRING, "lang": {"enum": ["de", "en"]}}},
        },
        ["to", "cents"],
        access="write",
        egress=True,
    ),
    "files/read": tool(
        "files",
        "read",
        {"path": STRING},
        ["path"],
        access="read",
        outage="warn",
        resource={"type": "File", "id": "path"},
        arguments={"path": {"kind": "path"}},
    ),
    "files/clear": tool(
        "files",
        "clear",
        {"path": STRING, "depth": {"type": "integer"}},
        ["path"],
        access="write",
        bulk=True,
        resource={"type": "File", "id": "path"},
        arguments={"path": {"kind": "path"}},
    ),
}
CEDAR = """
@id("p.read") permit(principal, action in Action::"read", resource);
@id("p.pay") permit(principal in Team::"sales", action == Action::"bank/pay", resource)
  when { context.input.cents > 0 && context.input.cents <= 100000 };
@id("p.coder") permit(principal == Agent::"coder", action, resource)
  unless { context.session.labels.contains("secret_read") };
@id("d.root") forbid(principal, action, resource is File) when { resource.path like "/etc/*" };
@id("d.clear") forbid(principal, action == Action::"files/clear", resource)
  unless { context.input has depth && context.input.depth < 3 };
@id("d.home") forbid(principal in Team::"engineering", action in Action::"bulk", resource == File::"/home");
@id("d.rate") forbid(principal, action == Action::"bank/pay", resource)
  when { context.input has rate && context.input.rate.greaterThan(decimal("1.5")) };
@id("d.night") forbid(principal, action in [Action::"write"], resource) when { context.request.hour >= 22 };
@id("w.many") @effect("warn") forbid(principal, action, resource) when { context.session.steps > 50 };
@id("w.tag") @effect("warn") forbid(principal, action == Action::"bank/pay", resource)
  when { context.input has tags && context.input.tags.containsAny(["rush", "odd"]) };
@id("a.large") @effect("require_approval") forbid(principal, action == Action::"bank/pay", resource)
  when { context.input.cents > 50000 };
@id("a.urgent") @effect("require_approval") forbid(principal, action, resource)
  when { action == Action::"bank/pay" && context.tool.door == "cooperative" }
  unless { context.claims.reason != "" };
@id("a.note") @effect("require_approval") forbid(principal, action == Action::"bank/pay", resource)
  when { context.input has note.lang && context.input.note.lang == "en" && context.session.intent.purpose == "audit" };
"""
REGO = """package exequatur

decision := {"allow": allow, "deny": deny, "warn": warn, "require_approval": ask}

name := concat("/", [input.tool.server, input.tool.name])
pays if name == "bank/pay"
writes if input.tool.access == "write"
permitted contains "p.read" if input.tool.access == "read"
permitted contains "p.pay" if {
	"sales" in input.agent.teams
	pays
	input.input.cents > 0
	input.input.cents <= 100000
}
permitted contains "p.coder" if {
	input.agent.id == "coder"
	not "secret_read" in input.session.labels
}
default allow := false
allow if count(permitted) > 0

deny contains {"id": "d.root", "reason": "so"} if {
	input.resource.type == "File"
	startswith(input.resource.attributes.path, "/etc/")
}
deny contains {"id": "d.clear", "reason": "so"} if {
	name == "files/clear"
	object.get(input.input, "depth", 99) >= 3
}
deny contains {"id": "d.home", "reason": "so"} if {
	"engineering" in input.agent.teams
	input.tool.bulk
	input.resource.id == "/home"
}
deny contains {"id": "d.rate", "reason": "so"} if {
	pays
	input.input.rate > 1.5
}
deny contains {"id": "d.night", "reason": "so"} if {
	writes
	input.request.hour >= 22
}
warn contains {"id": "w.many", "reason": "so"} if input.session.steps > 50
warn contains {"id": "w.tag", "reason": "so"} if {
	pays
	some tag in input.input.tags
	tag in {"rush", "odd"}
}
ask contains {"id": "a.large", "reason": "so"} if {
	pays
	input.input.cents > 50000
}
ask contains {"id": "a.urgent", "reason": "so"} if {
	pays
	input.tool.door == "cooperative"
	input.claims.reason == ""
}
ask contains {"id": "a.note", "reason": "so"} if {
	pays
	input.input.note.lang == "en"
	input.session.intent.purpose == "audit"
}
"""


def arguments(rng: random.Random, name: str) -> dict:
    if name != "bank/pay":
        found = {"path": rng.choice(["/etc/passwd", "/etc", "/etcetera", "/home", "/home/a", "/work/./x", "/a b/ü"])}
        return {**found, **({"depth": rng.randint(0, 5)} if name == "files/clear" and rng.random() < 0.7 else {})}
    optional = {
        "rate": lambda: rng.choice([0, 1, 1.5, 1.5001, 1.4999, 2, -3.25, 100]),
        "urgent": lambda: rng.choice([True, False, None]),
        "tags": lambda: rng.sample(["rush", "odd", "rush ", "x", ""], rng.randint(0, 3)),
        "note": lambda: rng.choice([{}, {"text": "x"}, {"lang": "en"}, {"lang": "de", "text": ""}]),
    }
    cents = rng.choice([-1, 0, 1, 49_999, 50_000, 50_001, 100_000, 100_001, 2**53 - 1])
    return {"to": "x", "cents": cents, **{key: make() for key, make in optional.items() if rng.random() < 0.5}}


def action(rng: random.Random, known: Registry, bases: dict[str, Facts]) -> Facts:
    called = known.tools[rng.choice([*TOOLS, "bank/pay"])]
    given, base = arguments(rng, called.full), bases[rng.choice([*bases])]
    session = replace(
        base.session,
        labels=frozenset(rng.sample(["secret_read", "pii"], rng.randint(0, 2))),
        steps=rng.choice([0, 50, 51]),
        intent=Intent(rng.choice(["audit", "work"])),
    )
    return replace(
        base,
        session=session,
        tool=called,
        resource=called.resolve(given),
        input=given,
        claims=Claims(reason=rng.choice(["", "said so"])),
        now=base.now.replace(hour=rng.choice([9, 21, 22, 23])),
        door=rng.choice(["enforced", "cooperative"]),
    )


def said(verdict) -> tuple:
    """Give the effect, and kinds with ids of what made it; Rego names no permits, so they are left out."""
    against = [reason for reason in verdict.reasons if reason.kind is not ReasonKind.PERMITTED]
    named = ReasonKind.FORBIDDEN, ReasonKind.RESTRICTED
    return verdict.effect, Counter((reason.kind, reason.policy if reason.kind in named else "") for reason in against)


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.conformance)])
def test_cedar_and_rego_decide_thousands_of_random_actions_alike(count):
    known, rng = registry(TOOLS), random.Random(20260101)
    bases = {agent: facts("files/read", {"path": "/"}, known=known, agent=agent) for agent in ("coder", "clerk")}
    cedar = CedarEngine.load({"rules.cedar": CEDAR.encode()}, known, agents())
    opa = RegoEngine.load(rego(REGO, json.dumps({})), {}, "exequatur/decision")
    effects: Counter[Effect] = Counter()
    policies: set[str] = set()
    for _ in range(count):
        asked = action(rng, known, bases)
        one, other = cedar.judge(asked), opa.judge(asked)
        assert said(one) == said(other), (asked.input, other.errors)
        assert one.errors == other.errors == ()
        effects[one.effect] += 1
        policies |= {reason.policy for reason in one.reasons}
    # All of it was tried: each effect often, each policy at least once.
    assert min(effects[effect] for effect in Effect) > count / 50, effects
    assert {part.partition('"')[0] for part in CEDAR.split('@id("')[1:]} <= policies
