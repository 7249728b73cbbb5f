"""A bundle of good policy, in many forms, to plant mistakes in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from policies import AGENTS, STRING, TOOLS, as_json, manifest, tool

INTEGER = {"type": "integer"}
NUMBERS = {"amount": INTEGER, "rate": INTEGER, "note": STRING}

CEDAR = """// Good policy, in many forms.
@id("permit.work")
permit (
    principal in Team::"engineering",
    action in [Action::"git/log", Action::"git/commit", Action::"git/add", Action::"bank/pay"],
    resource
);

@id("permit.read")
permit (principal, action in Action::"read", resource)
when { principal.environment == "dev" }
unless { !context.untyped.isEmpty() };

@id("forbid.many")
@reason("ask for fewer")
forbid (principal, action == Action::"git/log", resource)
when { context.input has max_count && context.input.max_count * 10 > 1000 };

@id("warn.labels")
@reason("you have read what others wrote")
@effect("warn")
forbid (principal, action in Action::"write", resource)
when { context.session.labels.contains("pii_read") || ["saturday", "sunday"].contains(context.request.weekday) };
"""

REGO = """package exequatur

decision := {"deny": deny | data.exequatur.more.deny, "warn": warn} if {
	is_string(tool)
	is_object(input.input)
}

tool := concat("/", [input.tool.server, input.tool.name])

arguments := object.get(input, "input", {})

deny contains {"id": "log.many", "reason": "ask for fewer"} if {
	tool == "git/log"
	object.get(arguments, "max_count", 1000) > 100
}

deny contains {"id": "search.limit", "reason": "say how many"} if {
	searches
	is_number(input.input.limit)
	input.input.limit > 100
}

deny contains {"id": "search.limit", "reason": "say how many"} if {
	searches
	not input.input.limit
}

deny contains {"id": "search.filter", "reason": "in one country"} if {
	searches
	not input.input.filter.country in data.countries
}

deny contains sprintf("not by %s", [input.agent.id]) if {
	input.tool.server == "shell"
	regex.match(data.patterns[input.tool.name], input.input.command)
}

deny contains "in whole numbers" if {
	input.tool.name == "pay"
	not whole(input.input.amount)
}

whole(amount) if amount % 1 == 0

warn contains "a tag" if {
	searches
	some tag in input.input.tags
	startswith(tag, "x")
}

warn contains "a part" if {
	input.tool.name == "pay"
	input.input.rate > 0
	input.input.amount / input.input.rate > 100
}

searches if input.tool.name == "search"
"""

MORE = """package exequatur.more

import data.exequatur

deny contains "late" if {
	exequatur.tool == "git/commit"
	time.parse_rfc3339_ns(input.request.time) > 1893456000000000000
}
"""

CASES = """- name: log is read
  agent: coder
  tool: git/log
  arguments: {repo_path: /srv/a}
  want: {effect: allow}
- name: a stranger is denied
  agent: stranger
  tool: git/lag
  want: {effect: deny}
"""


def tools() -> dict[str, Any]:
    known = copy.deepcopy(TOOLS)
    known["crm/search"]["labels"] = ["pii_read"]
    known["bank/pay"] = tool("bank", "pay", NUMBERS, list(NUMBERS), access="write", resource={"type": "Payment"})
    return known


def good(*, rego: bool = True) -> dict[str, bytes]:
    """Give a bundle in which there is nothing to find; without Rego, `opa` is not needed."""
    engines = [("cedar", "decide"), *([("rego", "restrict")] if rego else [])]
    policy = {"decision.rego": REGO, "more.rego": MORE} if rego else {}
    return {
        "exequatur.json": manifest(*engines).replace(b"], ", b"],\n").replace(b"}, {", b"},\n{"),
        "tools.json": lines({"tools": tools()}),
        "agents.json": lines({"agents": AGENTS}),
        "data.json": as_json({"countries": ["de", "fr"], "patterns": {"run": "^rm "}}),
        "limits.json": as_json({"max_steps": 50}),
        "policy.cedar": CEDAR.encode(),
        "cases/all.yaml": CASES.encode(),
        **{name: text.encode() for name, text in policy.items()},
    }


def lines(value: Mapping[str, Any]) -> bytes:
    """Write JSON with an entry a line."""
    return as_json(value).replace(b'"definition": ', b'\n"definition": ').replace(b'"outage"', b'\n"outage"')
