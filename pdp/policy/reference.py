"""The document that policy sees, field by field: the one source of its reference.

Rules: `pdp/engine/document.py` and `schema.py` decide what there is; the tests hold this list against both, each field
here is there and the other way round. A path is Rego's, without `input.`; Cedar's spelling follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["text", "texts", "number", "flag", "time", "any"]

KINDS: Final[dict[Kind, tuple[str, str]]] = {
    "text": ("String", "string"),
    "texts": ("Set<String>", "array of strings"),
    "number": ("Long", "number"),
    "flag": ("Bool", "boolean"),
    "time": ("datetime", "string, RFC 3339 in UTC with milliseconds"),
    "any": ("by its schema", "as it was sent"),
}
"""Each kind of value: its type in Cedar, and in Rego."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: where it is, what it is, what it means. `optional` if it may be missing."""

    path: str
    kind: Kind
    meaning: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the document: who fills it in, whether policy may rely on it, and its fields."""

    name: str
    source: str
    trusted: str
    fields: tuple[Field, ...]


PARTS: Final = (
    Part(
        "agent",
        "the inventory in the bundle, `agents.json`",
        "yes",
        (
            Field("agent.id", "text", "who acts, as the channel proved it"),
            Field("agent.owner", "text", "who answers for the agent"),
            Field("agent.version", "text", "which version of the agent it is; empty where it is not said"),
            Field("agent.models", "texts", "the models that it may call"),
            Field("agent.teams", "texts", "the teams that it works for"),
            Field("agent.environment", "text", "where it runs, such as `prod`; empty where it is not said"),
            Field("agent.domains", "texts", "the data domains that it is for"),
        ),
    ),
    Part(
        "session",
        "the decision point's store; an orchestrator opens a session, never the agent",
        "yes",
        (
            Field("session.id", "text", "which run it is"),
            Field("session.subject", "text", "on whose behalf; empty where it is nobody's"),
            Field("session.delegation_root", "text", "who was asked first; empty where nothing was handed on"),
            Field("session.delegation_parent", "text", "who asked this agent; empty where nothing was handed on"),
            Field("session.delegation_depth", "number", "how often the task was handed on"),
            Field("session.intent.purpose", "text", "what the session is for"),
            Field("session.intent.task", "text", "which task, such as a ticket's number"),
            Field("session.intent.domains", "texts", "the data domains that the task needs"),
            Field("session.labels", "texts", "facts that entered the session and stay, such as `untrusted_input`"),
            Field("session.steps", "number", "how many actions were allowed before this one"),
            Field("session.age_s", "number", "how long it has been open, in seconds"),
            Field("session.spent_microusd", "number", "what it has spent, in micro-USD"),
            Field("session.calls.<tool>", "number", "how often this tool, by full name, was allowed", optional=True),
            Field("session.last_minute.reads", "number", "how many reading actions were allowed in the last 60 s"),
            Field("session.last_minute.writes", "number", "how many writing actions were allowed in the last 60 s"),
        ),
    ),
    Part(
        "tool",
        "the registry in the bundle, `tools.json`; the door is what the channel proved",
        "yes",
        (
            Field("tool.server", "text", "the server's name"),
            Field("tool.name", "text", "the tool's name on that server"),
            Field("tool.access", "text", "`read` or `write`"),
            Field("tool.bulk", "flag", "whether one call reaches many things at once"),
            Field("tool.dangerous", "flag", "whether it is denied while no decision point answers"),
            Field("tool.data_classes", "texts", "what its results can hold, such as `pii`"),
            Field("tool.egress", "flag", "whether a call can carry data out"),
            Field("tool.environment", "text", "where it acts, such as `prod`; empty where it is not said"),
            Field("tool.door", "text", "`enforced`: the agent has no other way to the tool; `cooperative`: it may"),
        ),
    ),
    Part(
        "resource",
        "the registry's mapping of the arguments",
        "derived: the mapping is trusted, the values are the agent's",
        (
            Field("resource.type", "text", "what kind of thing it is, such as `File`"),
            Field("resource.id", "text", "which one: the mapped argument in canonical form, or the tool's full name"),
            Field(
                "resource.attributes.<argument>",
                "any",
                "an argument that has a kind, in canonical form",
                optional=True,
            ),
        ),
    ),
    Part(
        "input",
        "the agent: the arguments of the call, valid against the tool's schema",
        "no",
        (Field("input.<argument>", "any", "the argument as it will be forwarded", optional=True),),
    ),
    Part(
        "claims",
        "the agent: what it says about its action; nobody has checked it",
        "no",
        (
            Field("claims.reason", "text", "why it wants to"),
            Field("claims.cost_estimate_microusd", "number", "what it expects the call to cost, in micro-USD"),
            Field("claims.tokens", "number", "how many tokens it says it used"),
            Field("claims.model", "text", "which model it says it is"),
            Field("claims.provenance", "texts", "where it says that the arguments come from"),
        ),
    ),
    Part(
        "request",
        "the decision point's clock, in UTC",
        "yes",
        (
            Field("request.time", "time", "when it is decided"),
            Field("request.weekday", "text", "`monday` to `sunday`"),
            Field("request.hour", "number", "0 to 23"),
        ),
    ),
)

UNTYPED: Final = Field("untyped", "texts", "the arguments that Cedar cannot hold, by path; Rego has them all")
"""A field of Cedar's alone."""

_CEDAR: Final = {
    "agent.id": 'principal == Agent::"<id>"',
    "agent.teams": 'principal in Team::"<team>"',
    "resource.type": "resource is <Type>",
    "resource.id": 'resource == <Type>::"<id>"',
    "resource.attributes.<argument>": "resource.<argument>",
    "session.calls.<tool>": 'context.session.calls["<tool>"]',
    "tool.name": 'action == Action::"<server>/<tool>"',
    "tool.access": 'action in Action::"write"',
    "tool.bulk": 'action in Action::"bulk"',
    "tool.dangerous": 'action in Action::"dangerous"',
    "tool.egress": 'action in Action::"egress"',
}
"""What Cedar says in a rule's scope, which is quicker than a condition; most have a plain spelling too."""

_SCOPE_ONLY: Final = frozenset(("agent.id", "resource.type", "resource.id"))


def cedar_path(field: Field) -> str:
    """Give a field's path in a Cedar condition; empty if a rule's scope is the only place for it."""
    part, _, rest = field.path.partition(".")
    if field.path in _SCOPE_ONLY:
        return ""
    if part == "agent":
        return f"principal.{rest}"
    if part == "resource":
        return f"resource.{rest.removeprefix('attributes.')}"
    if field.path == "session.calls.<tool>":
        return _CEDAR[field.path]
    return f"context.{field.path}"


def rego_path(field: Field) -> str:
    """Give a field's path in Rego."""
    return f"input.{field.path}".replace(".<tool>", '["<tool>"]')


def page() -> str:
    """Give `docs/document.md`."""
    return "\n".join((_HEAD, *_tables(), _TAIL))


def _tables() -> Iterator[str]:
    for part in PARTS:
        yield f"## `{part.name}`\n\nFrom {part.source}. Trusted: {part.trusted}.\n"
        yield "| Cedar | Rego | type | meaning |\n|---|---|---|---|"
        for field in part.fields:
            spellings = dict.fromkeys(filter(None, (cedar_path(field), _CEDAR.get(field.path, ""))))
            cedar = ", ".join(f"`{spelling}`" for spelling in spellings)
            absent = "; may be missing" if field.optional else ""
            yield f"| {cedar} | `{rego_path(field)}` | {_kind(field.kind)} | {field.meaning}{absent} |"
        yield ""


def _kind(kind: Kind) -> str:
    cedar, rego = KINDS[kind]
    return f"{cedar}; {rego}" if kind == "any" else f"`{cedar}`; {rego}"


_HEAD: Final = """# The document that policy sees

<!-- Generated from pdp/policy/reference.py by docs/generate.py: change those. -->

Both languages judge the same facts. Cedar has them in `principal`, `action`, `resource` and `context`, Rego in `input`.
What is trusted and what the agent says never mix: a rule that allows should rest on trusted fields; `input` and
`claims` are the agent's own words. How to write rules with them is in [write a policy](write-a-policy.md).

```cedar
forbid (principal in Team::"interns", action in Action::"write", resource)
when { context.session.labels.contains("untrusted_input") && context.session.last_minute.writes > 3 };
```

```rego
deny contains "not while untrusted text is about" if {
    "interns" in input.agent.teams
    input.tool.access == "write"
    "untrusted_input" in input.session.labels
    input.session.last_minute.writes > 3
}
```

A field that may be missing needs a guard: `context.input has limit && context.input.limit > 10` in Cedar. In Rego a
rule that reads a missing field does not apply, also one that denies: `exequatur policy check` finds both.
"""

_TAIL: Final = """## `context.untyped`, in Cedar alone

`Set<String>`: the arguments that Cedar cannot hold as they are, by path. A rule that must not overlook anything says
`unless { context.untyped.isEmpty() }`, or is written in Rego, which has every argument as it was sent. The whole
mapping, with what becomes of each value: [what Cedar cannot hold](cedar-mapping.md).

| in the tool's JSON Schema | in Cedar |
|---|---|
| `string`, an enumeration of texts | `String` |
| `integer` | `Long` |
| `boolean` | `Bool` |
| `number` | `decimal`; a number with more than four decimals is left out and named |
| `array` | `Set`; its order and repetitions are lost, and a list of more than one item is named |
| `object` with `properties` | a record; members that it does not list are refused before policy is asked |
| a type or `null` | the type, optional; `null` is left out and named |
| an object of any form, a mixture of types, no type | left out and named |

## Arguments in canonical form

An argument with a kind in `tools.json` is in the resource's attributes, with one spelling for one thing. What is
ambiguous is denied before policy is asked.

| kind | in the attributes |
|---|---|
| `path` | a text without `..`, `//` and the like: `/srv/repo/a.py` |
| `host` | a text: `example.com` |
| `url` | `{scheme, host, port, path}`: `https`, `example.com`, 443, `/a` |
| `command`, `argv` | `{program, argv, simple}`: `rm`, `["rm", "-rf", "/"]`, whether the line is one plain command |

A list of them is a set in Cedar, a list in Rego.
"""
