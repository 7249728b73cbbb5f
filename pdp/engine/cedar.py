"""Cedar, by cedarpy's parsed handles.

Rules:
- Everything is parsed once a snapshot: a decision parses its own request and nothing else.
- The schema is given everywhere: to the policies, to the entities (without it an action is in no group, and a forbid on
  a group never fires) and to the request (so that no argument becomes an entity).
- An action is put to its *slice* (`pdp/engine/slices.py`), and a decision builds only the facts that policies of its
  tool can read: the cost grows neither with the other policies nor with the document. Policies are *checked* against
  all of it.
- Permits and plain forbids are one set and must say Allow. Soft forbids are evaluated apart, and only tighten.
- Cedar skips a policy that errors, a forbid too. Here any error is a denial that names the policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

import cedarpy
from cedarpy import pst

from exequatur.registry import Registry, Tool
from pdp.engine.combine import refusal
from pdp.engine.document import Facts, cedar_context, held
from pdp.engine.inventory import Agent, Agents
from pdp.engine.links import link_error
from pdp.engine.reading import PolicyError, sentence
from pdp.engine.schema import (
    AGENT,
    Member,
    RecordOf,
    call_schema,
    cedar_schema,
    context_type,
    input_type,
    resource_types,
)
from pdp.engine.slices import Policies, Slices, joined
from pdp.engine.statements import ALL, Statement, read_statements
from pdp.model import Effect, Reason, ReasonKind, Verdict

ENGINE: Final = "cedar"
SCHEMA_FILE: Final = "schema.cedarschema"

_POSITION: Final = re.compile(r"\bpolicy(\d+)\b")
# Cedar's messages hold values of the request; evidence says what kind of failure it was.
_FAILURES: Final = {
    "does not have the attribute": "it reads an attribute that is not there",
    "overflow": "an integer overflows",
    "type error": "a value has another type",
    "extension function": "an extension value cannot be read",
    "recursion limit": "it nests too deep",
}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is known about a tool before it is called. `schema` is of its calls alone; `agents` fills as they call."""

    action: Mapping[str, str]
    schema: cedarpy.Schema
    agent: RecordOf
    resource: RecordOf
    context: RecordOf
    arguments: RecordOf
    attributes: RecordOf
    agents: dict[str, cedarpy.Entities] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What Cedar is asked about one action, and by which policies: those whose scope can match it."""

    request: dict[str, Any]
    """As `cedarpy.is_authorized` takes it; `context` is JSON."""
    resource: Mapping[str, Any]
    """The resource as an entity: its `uid`, `attrs` and `parents`."""
    entities: cedarpy.Entities
    schema: cedarpy.Schema
    hard: tuple[Policies, ...]
    soft: tuple[Policies, ...]


class CedarEngine:
    """One bundle's Cedar policies, ready to judge."""

    def __init__(self, prepared: Mapping[str, _Prepared], slices: Slices) -> None:
        """Use `load`."""
        self._prepared = prepared
        self._slices = slices

    @classmethod
    def load(
        cls,
        files: Mapping[str, bytes],
        registry: Registry,
        agents: Agents,
        *,
        validated: bool = False,
        pause: Callable[[], None] = lambda: None,
    ) -> CedarEngine:
        """Make the engine of a bundle's `*.cedar` files and `links.json`; `files` may hold others.

        `validated` says that these very files were found valid before: what is not valid could only fail, and deny.
        `pause` is called now and then. Raises `PolicyError` with file and line: for what does not parse, is not valid
        against the generated schema in strict mode, or has an annotation that is not known; and where the bundle's
        schema is not the generated one.
        """
        text = cedar_schema(registry, agents)
        if SCHEMA_FILE in files and files[SCHEMA_FILE] != text.encode("utf-8"):
            raise PolicyError(f"`{SCHEMA_FILE}`: not what `tools.json` and `agents.json` give: build the bundle again")
        try:
            schema = cedarpy.Schema.from_str(text, release_gil=True)
        except ValueError as error:
            raise PolicyError(f"`{SCHEMA_FILE}`: {sentence(str(error))}") from None
        statements = read_statements(files, pause=pause)
        if not any(statement.permits for statement in statements):
            raise PolicyError("no Cedar policy permits anything: add a permit, or take the engine `cedar` out")
        _check_names(files, statements, registry, agents)
        if not validated:
            _validate(files, statements, schema)
        for name in agents:
            _entities(agents[name], schema, AGENT)
        slices = Slices(statements)
        return cls(_prepare(slices, registry, agents), slices)

    def judge(self, facts: Facts) -> Verdict:
        """Judge one action. Raises nothing: whatever goes wrong is a denial of kind `ERROR`."""
        try:
            return self._judge(facts)
        except Exception as error:  # noqa: BLE001 - fail closed; the text could hold values, its type cannot
            return refusal(f"the action could not be put to Cedar: {type(error).__name__}", engine=ENGINE)

    def _judge(self, facts: Facts) -> Verdict:
        question = self.question(facts)
        hard = _ask(question, question.hard)
        if isinstance(hard, Verdict):
            return hard
        permits, forbids = hard
        if forbids or not permits:
            return _denied(facts.tool, forbids)
        soft = _ask(question, [policies for policies in question.soft if policies.statements])
        if isinstance(soft, Verdict):
            return soft
        return _allowed(permits, soft[1])

    def question(self, facts: Facts) -> Question:
        """Put one action into Cedar's words; for `judge`, and for those who explain what it says."""
        prepared = self._prepared[facts.tool.full]
        untyped: list[str] = []
        uid = {"type": facts.resource.type, "id": facts.resource.id}
        attributes = held(prepared.attributes, dict(facts.resource.attributes), "resource", untyped)
        read = {name: value for name, value in attributes.items() if name in prepared.resource.members}
        resource = {"uid": uid, "attrs": read, "parents": []}
        entities = self._entities(facts.agent, prepared).with_added_json_str(json.dumps([resource]), prepared.schema)
        request = {
            "principal": {"type": "Agent", "id": facts.agent.id},
            "action": prepared.action,
            "resource": uid,
            "context": json.dumps(cedar_context(facts, prepared.context, prepared.arguments, untyped)),
        }
        policies = self._slices.of(facts.tool, facts.agent, facts.resource)
        return Question(request, resource, entities, prepared.schema, policies.hard, policies.soft)

    def _entities(self, agent: Agent, prepared: _Prepared) -> cedarpy.Entities:
        """Give the agent in its teams, with the tool's action in its groups; parsed once for each tool it calls."""
        if agent.id not in prepared.agents:
            prepared.agents[agent.id] = _entities(agent, prepared.schema, prepared.agent)
        return prepared.agents[agent.id]


def _ask(question: Question, sets: Iterable[Policies]) -> tuple[tuple[Statement, ...], tuple[Statement, ...]] | Verdict:
    """Give the permits and the forbids that hold, in their order, or the denial for what went wrong.

    A set in which a forbid holds does not say which permits hold.
    """
    found: dict[int, Statement] = {}
    for policies in sets:
        result = cedarpy.is_authorized(question.request, policies.parsed, question.entities, question.schema)
        if result.decision is cedarpy.Decision.NoDecision:
            return refusal("the action's facts are not what the schema says", engine=ENGINE)
        if result.diagnostics.errors:
            return _failed(result.diagnostics.errors, policies.statements)
        allowed = result.decision is cedarpy.Decision.Allow
        for position in map(_position, result.diagnostics.reasons):
            statement = policies.statements[position]
            if statement.permits is not allowed:
                return refusal("Cedar gave a decision that its reasons do not make", engine=ENGINE)
            found[policies.numbers[position]] = statement
        if allowed and not result.diagnostics.reasons:
            return refusal("Cedar allowed the action without naming a permit", engine=ENGINE)
    held = [found[number] for number in sorted(found)]
    return tuple(one for one in held if one.permits), tuple(one for one in held if not one.permits)


def _prepare(slices: Slices, registry: Registry, agents: Agents) -> dict[str, _Prepared]:
    """Find out for each tool what its policies can read."""
    attributes = resource_types(registry)
    found: dict[str, _Prepared] = {}
    for name, tool in registry.tools.items():
        reads = slices.prepare(tool)
        agent = _members(AGENT, "principal", reads)
        resource = _members(attributes[tool.resource_type], "resource", reads)
        context = _read_part(context_type(tool, registry), reads)
        found[name] = _Prepared(
            action={"type": "Action", "id": name},
            schema=cedarpy.Schema.from_str(call_schema(tool, agents, agent, resource, context)),
            agent=agent,
            resource=resource,
            context=context,
            arguments=input_type(tool),
            attributes=attributes[tool.resource_type],
        )
    return found


def _read_part(context: RecordOf, reads: AbstractSet[tuple[str, str]]) -> RecordOf:
    """Give the part of the context's type that can be read."""
    if (ALL, ALL) in reads:
        return context
    kept: dict[str, Member] = {}
    for part in sorted({part for part, _ in reads} & context.members.keys()):
        type_ = context.members[part].type
        kept[part] = Member(_members(type_, part, reads) if isinstance(type_, RecordOf) else type_, required=True)
    return RecordOf(kept)


def _members(type_: RecordOf, part: str, reads: AbstractSet[tuple[str, str]]) -> RecordOf:
    """Give the members of one part that can be read."""
    if (part, ALL) in reads:
        return type_
    return RecordOf({name: member for name, member in type_.members.items() if (part, name) in reads})


def _check_names(
    files: Mapping[str, bytes], statements: Sequence[Statement], registry: Registry, agents: Agents
) -> None:
    """Raise `PolicyError` for a scope that names nobody; Cedar's own schema knows all but the agents."""
    teams = {team for name in agents for team in agents[name].teams}
    kinds = {tool.resource_type for tool in registry.tools.values()}
    for statement in statements:
        who = _named(statement.principal)
        missing = who is not None and str(who.type) == "Agent" and who.id not in agents
        if missing and not statement.link:
            raise PolicyError(
                f"{statement.where}: there is no agent `{sentence(str(who and who.id))}` in `agents.json`"
            )
        what = _named(statement.resource)
        if statement.link and who is not None and (missing or (str(who.type) != "Agent" and who.id not in teams)):
            raise link_error(files, f"{statement.link}/principal", "must be an agent or a team in `agents.json`")
        if statement.link and what is not None and str(what.type) not in kinds:
            raise link_error(files, f"{statement.link}/resource", "must be of a resource type in `tools.json`")


def _named(constraint: pst.PrincipalOrResourceConstraint) -> pst.EntityUid | None:
    entity = getattr(constraint, "entity", None)
    return entity if isinstance(entity, pst.EntityUid) else None


def _validate(files: Mapping[str, bytes], statements: Sequence[Statement], schema: cedarpy.Schema) -> None:
    """Raise `PolicyError` for the first policy that is not valid, in the order of the files."""
    result = cedarpy.validate_policies(joined(statements), schema, release_gil=True)
    if result.validation_passed and not result.errors:
        return
    faults = sorted((_position(error.policy_id), error.error) for error in result.errors)
    if not faults or not 0 <= faults[0][0] < len(statements):
        raise PolicyError(f"the Cedar policies are not valid: {sentence(str(result.errors))}")
    first = statements[faults[0][0]]
    own = [_without_name(text) for position, text in faults if position == faults[0][0]]
    said = sentence("; ".join(dict.fromkeys(own)))
    if first.link:
        raise link_error(files, first.link, f"makes a policy that is not valid, at {first.where}: {said}")
    raise PolicyError(f"{first.where}: {said}")


def _entities(agent: Agent, schema: cedarpy.Schema, type_: RecordOf) -> cedarpy.Entities:
    """Give what each decision about an agent needs: the agent in its teams; the schema adds the actions."""
    attributes = {name: getattr(agent, name) for name in type_.members}
    parents = [{"type": "Team", "id": team} for team in agent.teams]
    entity = {"uid": {"type": "Agent", "id": agent.id}, "attrs": attributes, "parents": parents}
    try:
        return cedarpy.Entities.from_json_str(json.dumps([entity]), schema)
    except ValueError:
        raise PolicyError(f"`agents.json`: agent `{sentence(agent.id)}` does not fit the generated schema") from None


def _denied(tool: Tool, forbids: Sequence[Statement]) -> Verdict:
    if not forbids:
        text = f"no policy permits `{tool.full}` here"
        return Verdict(ENGINE, Effect.DENY, (Reason(ReasonKind.NOT_PERMITTED, text, engine=ENGINE),))
    return Verdict(ENGINE, Effect.DENY, tuple(_reason(forbid, ReasonKind.FORBIDDEN) for forbid in forbids))


def _allowed(permits: Sequence[Statement], soft: Sequence[Statement]) -> Verdict:
    strictest = sorted(soft, key=lambda statement: -(statement.soft or Effect.DENY))
    return Verdict(
        ENGINE,
        max((statement.soft or Effect.DENY for statement in soft), default=Effect.ALLOW),
        (
            *(_reason(statement, ReasonKind.RESTRICTED) for statement in strictest),
            *(_reason(statement, ReasonKind.PERMITTED) for statement in permits),
        ),
        tuple(statement.obligation for statement in (*strictest, *permits) if statement.obligation),
        tuple(sorted({name for statement in soft for name in statement.approvers})),
    )


def _reason(statement: Statement, kind: ReasonKind) -> Reason:
    return Reason(kind, statement.reason, statement.id, ENGINE, statement.owasp)


def _failed(errors: Sequence[str], statements: Sequence[Statement]) -> Verdict:
    """Give the denial for policies that failed while they were evaluated, each named with file and line."""
    texts: list[str] = []
    first = ""
    for error in errors:
        position = _position(error)
        what = next((words for sign, words in _FAILURES.items() if sign in error), "it cannot be evaluated")
        if 0 <= position < len(statements):
            statement = statements[position]
            first = first or statement.id
            texts.append(f"policy `{statement.id}` at {statement.where} failed: {what}")
        else:
            texts.append(f"a policy failed: {what}")
    return refusal(texts[0], engine=ENGINE, policy=first, errors=texts)


def _position(text: str) -> int:
    """Give the position in Cedar's own name of a policy, or -1."""
    found = _POSITION.search(text)
    return int(found[1]) if found else -1


def _without_name(text: str) -> str:
    return re.sub(r"^for policy `policy\d+`[,:] ", "", text)
