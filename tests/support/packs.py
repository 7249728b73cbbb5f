"""The policy packs for tests: their rules, out of the sources; their cases; and their stored bundles, as served."""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exequatur.action import Action, Claims
from exequatur.trust.bundle import verify
from exequatur.trust.canonical import canonical
from exequatur.trust.keys import parse_key_set
from pdp.bundle import cases
from pdp.bundle.cases import Case, Run
from pdp.bundle.wanted import Want
from pdp.engine.document import Facts
from pdp.engine.snapshot import Snapshot
from pdp.engine.statements import Statement, read_statements
from pdp.model import Effect

ROOT = Path(__file__).parents[2]
POLICIES, BUNDLES = ROOT / "policies", ROOT / "bundles"
PACKS = sorted(path.name for path in POLICIES.iterdir() if (path / "exequatur.json").is_file())
NOW = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)


@functools.cache
def snapshot(pack: str) -> Snapshot:
    """Give a pack's stored bundle, verified and compiled."""
    keys = parse_key_set({path.name: path.read_bytes() for path in (BUNDLES / "keys").iterdir()})
    return Snapshot.load(verify((BUNDLES / f"{pack}.tar.gz").read_bytes(), keys, now=NOW))


@functools.cache
def cases_of(pack: str) -> tuple[Case, ...]:
    """Read a pack's cases, each with its parameters filled in."""
    return cases.read({f"cases/{path.name}": path.read_bytes() for path in (POLICIES / pack / "cases").glob("*.yaml")})


@functools.cache
def rego_rules(pack: str) -> dict[str, list[dict[str, str]]]:
    """Find each Rego rule's entries, by id."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted((POLICIES / pack).glob("*.rego")):
        for kind, entry in re.findall(r"^(\w+) contains (\{.*?\}) if", path.read_text(), re.DOTALL | re.MULTILINE):
            if kind in ("deny", "require_approval", "warn"):
                fields = dict(re.findall(r'"(\w+)": "([^"]*)"', entry))
                found.setdefault(fields["id"], []).append({**fields, "effect": kind})
    return found


@functools.cache
def cedar_rules(pack: str) -> dict[str, Statement]:
    """Read each Cedar policy, by id."""
    files = {path.name: path.read_bytes() for path in (POLICIES / pack).glob("*.cedar")}
    return {rule.id: rule for rule in read_statements(files)}


def facts_of(case: Case, served: Snapshot) -> Facts:
    """Give the facts that a case puts to the engines; raises where the case is refused before they are asked."""
    tool = served.registry.tools[case.action.tool]
    arguments = case.action.arguments
    session = cases.session_of(case.run, case.action, served, case.time)
    door = "enforced" if case.door_enforced else "cooperative"
    agent = served.agents[case.action.agent]
    return Facts(agent, session, tool, tool.resolve(arguments), arguments, case.action.claims, case.time, door)


def call(pack: str, agent: str, tool: str, arguments: dict[str, Any], **run: Any) -> Facts:
    """Give the facts of one call, in a session as `run` says (a `Run` of `pdp.bundle.cases`)."""
    action = Action.parse(agent=agent, tool=tool, arguments_json=canonical(arguments), claims=Claims(), door="case")
    want = Want(Effect.ALLOW)
    return facts_of(Case("", "", action, NOW, door_enforced=True, run=Run(**run), want=want), snapshot(pack))


def without(document: Any) -> Iterator[tuple[str, Any]]:
    """Give the document with each one member left out in turn, but for the arguments and what is in them."""

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict) or path[:1] == ("input",):
            return
        for name in node:
            if (*path, name) != ("input",):
                yield "/".join((*path, name)), _dropped(document, (*path, name))
            yield from walk(node[name], (*path, name))

    return walk(document, ())


def _dropped(node: Any, path: tuple[str, ...]) -> Any:
    first, *rest = path
    if not rest:
        return {name: value for name, value in node.items() if name != first}
    return {**node, first: _dropped(node[first], tuple(rest))}
