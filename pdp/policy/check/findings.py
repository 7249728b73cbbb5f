"""What `policy check` can find: each kind with its code, why it matters, what to do, and an example.

Rules: a code is never given another meaning; this list is the one source of `docs/findings.md`; the text of a finding
names policies, tools and arguments, never a value of an action.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mistake and where it is; `line` counts from 1 on. `text` says what it is, `why` what comes of it."""

    file: str
    line: int
    code: str
    text: str
    severity: Severity
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of mistake. `example` is what is wrong, in the language that it names first."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    language: str
    example: str


GROUPS: Final = {
    "EX1": "Syntax",
    "EX2": "Names and schema",
    "EX3": "Rules that never apply",
    "EX4": "Rules that can vanish",
    "EX5": "Too wide",
    "EX6": "The bundle's own files",
}

_NEVER: Final = "whoever wrote it believes that it holds, and it never does"

KINDS: Final = (
    Kind(
        "EX101",
        "error",
        "this is not Cedar",
        "a bundle with it is neither built nor served",
        "correct it; the policy that is meant begins at this line",
        "cedar",
        "permit (principal, action, resource) when { context.tool.bulk = true };",
    ),
    Kind(
        "EX102",
        "error",
        "this is not Rego",
        "a bundle with it is neither built nor served",
        "correct it; `opa check --strict` says the same",
        "rego",
        'deny contains "no" if { input.tool.bulk',
    ),
    Kind(
        "EX201",
        "error",
        "this is not what the generated schema says",
        "a policy that reads a fact in another form than it has cannot be judged",
        "compare with the type that `docs/document.md` or the tool's JSON Schema gives",
        "cedar",
        "forbid (principal, action, resource) when { context.tool.name == 3 };",
    ),
    Kind(
        "EX202",
        "error",
        "there is no such tool or group",
        _NEVER,
        "correct the name, or add the tool to `tools.json`",
        "cedar",
        'forbid (principal, action == Action::"git/comit", resource);',
    ),
    Kind(
        "EX203",
        "error",
        "there is no such agent",
        _NEVER,
        "correct the name, or add the agent to `agents.json`",
        "rego",
        'deny contains "no" if input.agent.id == "codr"',
    ),
    Kind(
        "EX204",
        "error",
        "there is no such team",
        _NEVER,
        "correct the name, or give the team to an agent in `agents.json`",
        "cedar",
        'forbid (principal in Team::"enginering", action, resource);',
    ),
    Kind(
        "EX205",
        "error",
        "there is no such argument or fact",
        _NEVER,
        "correct the name; `docs/document.md` lists the facts, the tool's JSON Schema its arguments",
        "rego",
        'deny contains "no" if input.sesion.steps > 3',
    ),
    Kind(
        "EX206",
        "error",
        "this annotation, or its value, is not known",
        "what it was meant to say is not done",
        "known are `@id`, `@reason`, `@effect`, `@approvers`, `@obligation` and `@owasp`",
        "cedar",
        '@effect("wran") forbid (principal, action, resource);',
    ),
    Kind(
        "EX207",
        "error",
        "the fact never has this value",
        _NEVER,
        "use one of the values that it can have",
        "rego",
        'deny contains "no" if input.tool.access == "wirte"',
    ),
    Kind(
        "EX208",
        "warning",
        "no tool brings this label",
        "no session ever has it, so what is asked never holds",
        "correct it, or give the label to a tool in `tools.json`",
        "cedar",
        'forbid (principal, action, resource) when { context.session.labels.contains("untrusted") };',
    ),
    Kind(
        "EX209",
        "error",
        "there is no such rule, and no such data",
        "what reads it is undefined, so its rule does not apply, also one that denies",
        "correct the name, or add it to `data.json`",
        "rego",
        'deny contains "no" if input.input.host in data.lists.hostz',
    ),
    Kind(
        "EX210",
        "error",
        "another policy has this id",
        "reasons and coverage could not tell the two apart, and the bundle is not built",
        "give each policy an id of its own",
        "cedar",
        '@id("a") permit (principal, action, resource); @id("a") forbid (principal, action, resource);',
    ),
    Kind(
        "EX211",
        "warning",
        "this policy has no `@id`",
        "records and cases name it by its place, which changes with the next policy above it",
        'add `@id("...")`',
        "cedar",
        "forbid (principal, action, resource);",
    ),
    Kind(
        "EX212",
        "warning",
        "this forbid has no `@reason`",
        "the agent that meets it is not told what to do instead",
        'add `@reason("...")`: what is wrong, and what to do instead',
        "cedar",
        '@id("a") forbid (principal, action, resource);',
    ),
    Kind(
        "EX301",
        "error",
        "what is asked never holds",
        _NEVER,
        "take it out, or say what is meant",
        "rego",
        'deny contains "no" if "prod" == "dev"',
    ),
    Kind(
        "EX302",
        "error",
        "no tool acts on this type of resource",
        _NEVER,
        "name a resource type that one of these tools has in `tools.json`",
        "cedar",
        'forbid (principal, action == Action::"git/log", resource is Shell);',
    ),
    Kind(
        "EX303",
        "error",
        "no tool is in this group",
        _NEVER,
        "mark a tool in `tools.json`, or take the policy out until there is one",
        "cedar",
        'forbid (principal, action in Action::"egress", resource);',
    ),
    Kind(
        "EX304",
        "error",
        "the tool that is asked for has no such argument",
        _NEVER,
        "read an argument of that tool, or ask for the tool that has this one",
        "rego",
        'deny contains "no" if { input.tool.name == "log"; input.input.command == "rm" }',
    ),
    Kind(
        "EX305",
        "error",
        "this rule restricts, and the entry point never comes to it",
        _NEVER,
        "put it into the entry point's answer, or delete it",
        "rego",
        'package exequatur.forgotten\n\ndeny contains "no" if input.tool.bulk',
    ),
    Kind(
        "EX306",
        "warning",
        "the entry point never comes to this rule",
        "readers take it for policy that holds",
        "use it or delete it",
        "rego",
        "unused if input.tool.bulk",
    ),
    Kind(
        "EX307",
        "error",
        "no tool is all that is asked here",
        _NEVER,
        "ask for one tool; several stand in a set: `input.tool.name in {...}`",
        "rego",
        'deny contains "no" if { input.tool.server == "git"; input.tool.name == "run" }',
    ),
    Kind(
        "EX401",
        "error",
        "a restriction rests on a field that may be missing",
        "where it is missing the rule does not apply: leaving it out is a way around it",
        "read it with `object.get` and the stricter default, or ask before with `is_number` and the like",
        "rego",
        'warn contains "many" if input.input.limit > 100',
    ),
    Kind(
        "EX402",
        "error",
        "a restriction rests on a built-in that can fail on what the agent sends",
        "where it fails the rule does not apply, or the whole action is denied by an error instead of a reason",
        "look first whether it can succeed: `regex.match`, `is_number`, a comparison with 0; or turn the rule round: "
        "`not is_fine(...)`",
        "rego",
        'deny contains "no" if to_number(input.input.note) > 100',
    ),
    Kind(
        "EX403",
        "error",
        "a field that may be missing is read without `has`",
        "the policy would fail where it is missing, so that it is not built",
        "ask first: `context.input has limit && context.input.limit > 100`",
        "cedar",
        'forbid (principal, action == Action::"crm/search", resource) when { context.input.limit > 100 };',
    ),
    Kind(
        "EX404",
        "warning",
        "this product can overflow on what the agent sends",
        "Cedar's numbers have 64 bits: beyond them the policy fails, and the action is denied by an error",
        "compare without reckoning, or bound the argument with `maximum` in the tool's JSON Schema and in a rule",
        "cedar",
        'forbid (principal, action == Action::"bank/pay", resource)\n'
        "when { context.input.amount * context.input.rate > 9 };",
    ),
    Kind(
        "EX501",
        "error",
        "dangerous tools are permitted to everybody, whatever the circumstances",
        "each agent that joins the inventory may use them, and each tool that joins the registry is permitted",
        "name the team and the tools, or add a condition",
        "cedar",
        "permit (principal, action, resource);",
    ),
    Kind(
        "EX502",
        "error",
        "a permit on a tool with arguments that Cedar cannot hold",
        "no policy can look at them, so anything may be in them",
        "give the argument a type in the tool's JSON Schema, judge it in Rego, or add "
        "`unless { !context.untyped.isEmpty() }`",
        "cedar",
        'permit (principal in Team::"sales", action == Action::"crm/search", resource);',
    ),
    Kind(
        "EX601",
        "error",
        "this file is not what its schema says",
        "a bundle with it is neither built nor served",
        "correct it; `exequatur policy schema --print NAME` shows the schema",
        "json",
        '{"max_stepps": 500}',
    ),
    Kind(
        "EX602",
        "error",
        "`outage: warn` on a tool that may not have it",
        "while no decision point answers, the tool would run unjudged",
        "take `outage` out: only tools that read one thing, inside, without classed data may have `warn`",
        "json",
        '{"access": "write", "outage": "warn"}',
    ),
    Kind(
        "EX603",
        "error",
        "there is no case",
        "policy that nobody tried is a guess, and a bundle without cases is not built",
        "write in `cases/*.yaml` what the policies must answer, at least once for each",
        "yaml",
        "[]",
    ),
    Kind(
        "EX604",
        "error",
        "this case cannot be read",
        "what it was meant to hold is not held",
        "correct it; `exequatur policy schema --print cases` shows the schema",
        "yaml",
        "- name: a note is read\n  agent: clerk\n  tool: notes/read\n  want: {effect: alow}",
    ),
    Kind(
        "EX605",
        "error",
        "engines and policy files do not fit each other",
        "policy that no engine reads holds nothing, and an engine without policy has no answer",
        "list the engine in `exequatur.json`, or take the file out",
        "json",
        '{"engines": [{"engine": "rego", "role": "restrict", "entrypoint": "exequatur/decison"}]}',
    ),
)

_BY_CODE: Final = {kind.code: kind for kind in KINDS}


def found(code: str, place: tuple[str, int], text: str = "", *, fix: str = "") -> Finding:
    """Make a finding of a known kind at a place (file and line); `text` and `fix` stand instead of the kind's own."""
    kind = _BY_CODE[code]
    file, line = place
    return Finding(file, max(1, line), code, text or kind.title, kind.severity, kind.why, fix or kind.fix)


def page() -> str:
    """Give `docs/findings.md`."""
    return "\n".join((_HEAD, *_sections()))


def _sections() -> Iterator[str]:
    for group, title in GROUPS.items():
        kinds = [kind for kind in KINDS if kind.code.startswith(group)]
        yield f"## {title}\n\n| code | | what |\n|---|---|---|"
        for kind in kinds:
            yield f"| [{kind.code}](#{kind.code.lower()}) | {kind.severity} | {kind.title} |"
        yield ""
        for kind in kinds:
            yield f"### {kind.code}\n\n{_sentence(kind.title)}.\n\n```{kind.language}\n{kind.example}\n```\n"
            yield f"Why: {kind.why}.\n\nFix: {kind.fix}.\n"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


_HEAD: Final = """# What `policy check` finds

<!-- Generated from pdp/policy/check/findings.py by docs/generate.py: change those. -->

```console
$ exequatur policy check FOLDER
```

It reads everything and says all that it finds, each with file, line, code, why it matters and a fix. The exit code is 1
where there is an error, with `--strict` also where there is only a warning, and 0 else; `--json` is for machines.
Nothing of it is a proof: a policy without findings can still be wrong, which is what cases are for.
"""
