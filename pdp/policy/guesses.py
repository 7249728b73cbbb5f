"""A first guess of what a tool does, from its MCP definition, for a person to review.

Rules: what is not certain gets the stricter guess. Annotations are claims of the server: one can make a guess stricter,
and none ever makes it weaker. Names and schemas are the server's words too, so nothing here takes the place of looking.
Each guess comes with its reason. Nothing is guessed that would loosen a rule: `outage` stays `deny`, nothing is `open`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_READS: Final = _set(
    "browse compare count describe diff fetch find get inspect list look lookup read search show summarize view"
)
"""Verbs that a tool which only reads begins with."""

_READS_ALONE: Final = _set("cat grep help history info log ls ping stat status tree version whoami")
"""Names that mean reading when nothing else is said: a `log` is read, a `log_event` is not."""

_WRITES: Final = _set(
    "add append apply approve assign cancel clear create delete destroy disable drop edit enable erase exec execute "
    "format grant insert install invoke invite kill modify move overwrite pay publish purge put refund reject remove "
    "rename replace reset restart revoke rm run save send set submit terminate truncate undo uninstall unlock update "
    "upload upsert wipe write"
)
"""Verbs that change something, wherever in a name they stand."""

_JOINS: Final = frozenset(("and", "or", "then"))
_OUTSIDE: Final = _set(
    "browse crawl download email fetch http mail message navigate notify post publish pull push scrape send share "
    "slack sms sync tweet upload web webhook"
)
_MANY: Final = _set("all batch bulk dump each every export find list mass multiple query scan search")
_MANY_ARGUMENTS: Final = _set("count cursor filter limit max offset page query where")
_PLAIN: Final = _set(
    "after before branch contains cursor date direction encoding end format id ids key kind language level limit "
    "locale mode name order page ref revision sha sort start state status tag target time timestamp timezone type "
    "unit units version"
)
"""What an argument is named by that picks something out. Any other text can carry data."""

_ADDRESSES: Final = _set("bcc cc email emails phone recipient recipients to webhook")
_CODE: Final = _set("argv cmd code command commandline commands expression script shell sql")
_DEPTH: Final = 16  # of schemas inside each other; some refer to themselves
_BASES: Final = _set("base cwd project repo repository root workspace")
_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "command": _set("cmd command commandline"),
    "url": _set("endpoint href link links uri uris url urls webhook"),
    "host": _set("domain domains host hostname hostnames hosts"),
    "path": _set("cwd dir directories directory file filename filenames filepath files folder folders path paths"),
}
_FORMATS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("uri", "uri-reference", "iri", "url"), "url"),
    **dict.fromkeys(("path", "file-path", "directory-path"), "path"),
    **dict.fromkeys(("hostname", "idn-hostname", "ipv4", "ipv6"), "host"),
}
_RESOURCES: Final[Mapping[str, str]] = {"command": "Command", "url": "Url", "host": "Host", "path": "File"}
_NOT_TYPES: Final = _set("Action Agent Bool Boolean Entity Extension Long Record Set String Team Tool")
"""Words that mean something else in a policy."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A registry entry without its definition, and why each part of it is as it is, in the order of the parts."""

    entry: Mapping[str, Any]
    why: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Argument:
    name: str
    words: tuple[str, ...]
    text: bool
    """Whether it is a text, or a list of texts, that is not one of a few."""
    many: bool
    """Whether it is a list."""
    free: bool
    """Whether it can carry data of any form."""
    required: bool
    kind: str


def guess(server: str, definition: Mapping[str, Any]) -> Guess:
    """Guess what the tool of `server` with this MCP definition does."""
    words = tuple(_words(str(definition["name"])))
    if len(words) > 1 and words[0] in _words(server):
        words = words[1:]
    arguments = tuple(_arguments(definition["inputSchema"]))
    given = definition.get("annotations")
    claims = given if isinstance(given, dict) else {}
    access, access_why = _access(words, arguments, claims)
    bulk, bulk_why = _bulk(words, arguments)
    egress, egress_why = _egress(words, arguments, claims)
    resource, resource_why = _resource(arguments)
    kinds = {argument.name: _kind(argument, arguments) for argument in arguments if argument.kind}
    entry: dict[str, Any] = {"access": access}
    entry |= {"bulk": True} if bulk else {}
    entry |= {"egress": True} if egress else {}
    entry |= {"resource": resource} if resource else {}
    entry |= {"arguments": kinds} if kinds else {}
    why = {access: access_why, "bulk" if bulk else "not bulk": bulk_why, "egress" if egress else "inside": egress_why}
    return Guess(entry, why | ({f"a {resource['type']}": resource_why} if resource else {}))


def _access(words: tuple[str, ...], arguments: tuple[_Argument, ...], claims: Mapping[str, Any]) -> tuple[str, str]:
    claimed = ", whatever the server claims" if claims.get("readOnlyHint") is True else ""
    if writes := next((word for word in words if word in _WRITES), ""):
        return "write", f"its name says `{writes}`{claimed}"
    if code := next((argument.name for argument in arguments if _CODE & set(argument.words)), ""):
        return "write", f"it is given `{code}` to run{claimed}"
    if claims.get("readOnlyHint") is False:
        return "write", "the server says that it writes"
    if claims.get("destructiveHint") is True:
        return "write", "the server says that it destroys"
    if words and (words[0] in _READS or (len(words) == 1 and words[0] in _READS_ALONE)) and not _JOINS & set(words):
        return "read", f"its name says `{words[0]}`, and nothing says otherwise"
    return "write", "its name does not say that it only reads" + (", the server claims it" if claimed else "")


def _bulk(words: tuple[str, ...], arguments: tuple[_Argument, ...]) -> tuple[bool, str]:
    if many := next((word for word in words if word in _MANY), ""):
        return True, f"its name says `{many}`"
    for argument in arguments:
        if argument.many:
            return True, f"`{argument.name}` is a list"
        if _MANY_ARGUMENTS & set(argument.words):
            return True, f"`{argument.name}` is about many"
    one = next((argument.name for argument in arguments if argument.text and argument.required), "")
    return (False, f"`{one}` names one thing") if one else (True, "no argument says which one thing it is about")


def _egress(words: tuple[str, ...], arguments: tuple[_Argument, ...], claims: Mapping[str, Any]) -> tuple[bool, str]:
    if out := next((word for word in words if word in _OUTSIDE), ""):
        return True, f"its name says `{out}`"
    for argument in arguments:
        if argument.kind in ("url", "host") or _ADDRESSES & set(argument.words):
            return True, f"`{argument.name}` is an address"
        if argument.kind == "command" or _CODE & set(argument.words):
            return True, f"what it runs, `{argument.name}`, can do anything"
    if claims.get("openWorldHint") is True:
        return True, "the server says that it reaches out"
    if free := next((argument.name for argument in arguments if argument.free), ""):
        return True, f"`{free}` can carry anything, and nothing proves where it goes"
    return False, "nothing in its name or arguments reaches out"


def _resource(arguments: tuple[_Argument, ...]) -> tuple[dict[str, str], str]:
    """Choose the argument that names what a call touches: one text that must be there."""
    single = [argument for argument in arguments if argument.text and argument.required and not argument.many]
    for kind, type_ in _RESOURCES.items():
        found = [argument for argument in single if argument.kind == kind]
        if found:
            # `source` and `target`: what is touched last is what changes.
            argument = found[-1]
            of_code = kind == "path" and {"repo", "repository"} & set(argument.words)
            return {
                "type": "Repository" if of_code else type_,
                "id": argument.name,
            }, f"`{argument.name}` is a {kind}"
    for argument in single:
        noun = "".join(word.capitalize() for word in argument.words[:-1])
        if argument.words[-1:] == ("id",) and noun and noun not in _NOT_TYPES and not noun.endswith("Facts"):
            return {"type": noun, "id": argument.name}, f"`{argument.name}` names one"
    return {}, ""


def _kind(argument: _Argument, arguments: tuple[_Argument, ...]) -> dict[str, str]:
    """Say how an argument is canonicalised; a list of paths beside a folder is joined on that folder."""
    bases = [other.name for other in arguments if other.kind == "path" and _BASES & set(other.words) and not other.many]
    if argument.kind == "path" and argument.name not in bases and len(bases) == 1:
        return {"kind": "path", "base": bases[0]}
    return {"kind": "argv" if argument.kind == "command" and argument.many else argument.kind}


def _arguments(schema: Mapping[str, Any]) -> Iterator[_Argument]:
    properties, required = schema.get("properties"), schema.get("required")
    for name, rule in (properties if isinstance(properties, dict) else {}).items():
        words = tuple(_words(name))
        shape, many = _shape(rule, schema, 0)
        text = shape is not None
        yield _Argument(
            name=name,
            words=words,
            text=text,
            many=many,
            free=not (_PLAIN & set(words[-1:])) and not _kind_of(words, shape) if text else _holds_text(rule),
            required=isinstance(required, list) and name in required,
            kind=_kind_of(words, shape),
        )


def _shape(rule: Any, root: Mapping[str, Any], depth: int) -> tuple[Mapping[str, Any] | None, bool]:
    """Give the rule of a text, null aside, and whether it is for the items of a list; None where it is no text."""
    if not isinstance(rule, dict) or depth > _DEPTH:
        return None, False
    if str(rule.get("$ref", "")).startswith("#/$defs/"):
        named = root.get("$defs")
        found = named.get(rule["$ref"].removeprefix("#/$defs/")) if isinstance(named, dict) else None
        return _shape(found, root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        options = rule.get(word)
        if isinstance(options, list):
            plain = [option for option in options if not (isinstance(option, dict) and option.get("type") == "null")]
            if len(plain) == 1:
                return _shape(plain[0], root, depth + 1)
            # Not followed: alternatives of alternatives can be any number.
            return None, any(isinstance(option, dict) and _may_be_a_list(option) for option in plain)
    kinds = rule.get("type")
    plain_kinds = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    if plain_kinds == ["array"]:
        return _shape(rule.get("items"), root, depth + 1)[0], True
    return (rule if plain_kinds == ["string"] and "enum" not in rule and "const" not in rule else None), False


def _may_be_a_list(rule: Mapping[str, Any]) -> bool:
    kinds = rule.get("type", "array")
    return "array" in (kinds if isinstance(kinds, list) else [kinds])


def _holds_text(rule: Any) -> bool:
    """Whether a value that is no plain text can hold one all the same; what is not understood can."""
    if not isinstance(rule, dict) or "enum" in rule or "const" in rule:
        return not isinstance(rule, dict)
    kinds = rule.get("type")
    named = set(kinds if isinstance(kinds, list) else [kinds])
    return not named <= {"boolean", "integer", "number", "null"}


def _kind_of(words: tuple[str, ...], shape: Mapping[str, Any] | None) -> str:
    if shape is None:
        return ""
    kind = _FORMATS.get(str(shape.get("format")), "")
    return kind or next((kind for kind, names in _KINDS.items() if set(words[-1:]) & names), "")


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
