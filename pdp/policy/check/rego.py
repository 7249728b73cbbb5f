"""What is wrong with a bundle's Rego: what `opa` says of it against the document's schema, and what its tree shows.

Rules: `opa` runs once for all files, and once a file for the tree, side by side; a file that does not parse is said,
and the rest is looked at only once all do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from exequatur.trust.canonical import JsonError, parse
from pdp.bundle.build import OpaError, rego_folder, run_opa
from pdp.engine.manifest import FILE, Role
from pdp.engine.reading import BUNDLE_JSON, sentence
from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import Known
from pdp.policy.check.rego_names import name_findings, reach_findings
from pdp.policy.check.rego_reach import RESTRICTING, Reach
from pdp.policy.check.rego_tree import Node, Rule, RulePath, Tree, line_of
from pdp.policy.check.rego_vanish import vanishing

_SCHEMA: Final = "input.schema.json"
_AT_ONCE: Final = 4
_ANSWER: Final = ("allow", "deny", "warn", "require_approval", "obligations")
_ENTRY: Final = ("id", "reason", "owasp")
"""The members that `pdp.engine.answer` reads."""
_MOST: Final = "1000"
_MOST_NESTED: Final = 200
_DEEP: Final = f"this nests deeper than {_MOST_NESTED} brackets"
_BRACKET: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*|(?P<open>[(\[{])|(?P<close>[)\]}])')


def check_rego(
    files: Mapping[str, bytes], known: Known | None, entrypoint: str, role: Role, opa: Path | None
) -> list[Finding]:
    """Find what is wrong; `known` is None where the registry or the inventory cannot be read. Raises `OpaError`."""
    names = sorted(name for name in files if name.endswith(".rego"))
    deep = [name for name in names if _nesting(files[name]) > _MOST_NESTED]
    if deep:
        return [found("EX102", (name, 1), _DEEP, fix="write it in several rules") for name in deep]
    with rego_folder(files, opa) as (folder, program):
        schema = () if known is None else ("-s", f"../{_SCHEMA}")
        if known is not None:
            (folder.parent / _SCHEMA).write_text(json.dumps(known.document_schema()), encoding="utf-8")
        command = ["check", "--strict", "-m", _MOST, "--format", "json", *schema, *names]
        kept = [name for name in names if not name.endswith("_test.rego")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            checked = pool.submit(run_opa, program, command, folder)
            parsed = list(pool.map(lambda name: _parsed(program, folder, name), kept))
            findings = _said(checked.result().stdout + checked.result().stderr)
    tree = Tree()
    for name, module in zip(kept, parsed, strict=True):
        if module is None:
            return findings
        tree.add(name, module)
    entry = tuple(entrypoint.split("/"))
    if not tree.under(entry):
        return [*findings, found("EX605", _line(files, entrypoint), f"no rule is at the entry point `{entrypoint}`")]
    if known is not None:
        reach = Reach(tree, known, entry)
        findings += vanishing(tree, known, reach)
        findings += name_findings(tree, known, _data(files))
        findings += reach_findings(tree, known, reach)
    findings += _answers(tree, entry)
    return [*findings, *(_wide(tree, entry) if role is Role.DECIDE else ())]


def _nesting(data: bytes) -> int:
    """Give how deep brackets nest; OPA's tree of a file grows with the square of it."""
    depth = deepest = 0
    for piece in _BRACKET.finditer(data):
        depth += (piece["open"] is not None) - (piece["close"] is not None)
        deepest = max(deepest, depth)
    return deepest


def _parsed(program: Path, folder: Path, name: str) -> dict[str, Any] | None:
    done = run_opa(program, ["parse", name, "--format", "json", "--json-include", "locations,-comments"], folder)
    if done.returncode != 0:
        return None
    module: dict[str, Any] = json.loads(done.stdout)
    return module


def _said(output: str) -> list[Finding]:
    """Give what `opa check` says, in our codes."""
    if not output.strip():
        return []
    try:
        errors = json.loads(output)["errors"]
    except (ValueError, KeyError):
        raise OpaError(f"`opa check` failed: {sentence(output.strip())}") from None
    findings: list[Finding] = []
    for error in errors:
        at = error.get("location", {})
        place = str(at.get("file", "")), int(at.get("row", 1))
        text = sentence(str(error["message"]))
        if error["code"] != "rego_type_error" or "undefined function" in text:
            findings.append(found("EX102", place, text))
        elif text.startswith("undefined ref: "):
            findings.append(found("EX205", place, f"`{text.removeprefix('undefined ref: ')}` is not there in any call"))
        else:
            findings.append(found("EX201", place, f"types do not meet: {text}"))
    return findings


def _line(files: Mapping[str, bytes], entrypoint: str) -> tuple[str, int]:
    """Give the place of the entry point's name."""
    data = files[FILE]
    return FILE, data.count(b"\n", 0, data.find(f'"{entrypoint}"'.encode())) + 1


def _answers(tree: Tree, entry: RulePath) -> Iterator[Finding]:
    """Find members of the answer, and of its entries, that no engine knows: with one of them all is denied."""
    for rule, key, term in _members(tree, entry, "value"):
        if key["value"] not in _ANSWER:
            yield _unknown(rule, key, "the answer", _ANSWER)
        name = key["value"] if term.get("type") == "var" and key["value"] in RESTRICTING else ""
        allowed = (*_ENTRY, "approvers") if name == "require_approval" else _ENTRY
        for other, member, _ in _members(tree, (*entry[:-1], term["value"]), "key") if name else ():
            if member["value"] not in allowed:
                yield _unknown(other, member, f"an entry of `{name}`", allowed)


def _members(tree: Tree, path: RulePath, part: str) -> Iterator[tuple[Rule, Node, Node]]:
    """Give the members of the objects that a rule is written as, by name."""
    for rule in tree.rules.get(path, []):
        for clause in rule.clauses:
            written = clause.head.get(part) or {}
            for key, term in written["value"] if written.get("type") == "object" else ():
                if key.get("type") == "string":
                    yield rule, key, term


def _unknown(rule: Rule, key: Node, what: str, allowed: Sequence[str]) -> Finding:
    text = f"{what} has the unknown member `{key['value']}`, so that it denies with an error"
    fix = f"known are {', '.join(f'`{name}`' for name in allowed)}"
    return found("EX605", (rule.file, line_of(key, rule.line)), text, fix=fix)


def _wide(tree: Tree, entry: RulePath) -> list[Finding]:
    """Find an `allow` that holds whatever is asked."""
    rules = [rule for path in ((*entry, "allow"), (*entry[:-1], "allow")) for rule in tree.rules.get(path, [])]
    return [
        found("EX501", (rule.file, clause.line), f"`{rule.name}` allows everything to everybody")
        for rule in rules
        for clause in rule.clauses
        if clause.is_plain and clause.head.get("value", {}).get("value") is True
    ]


def _data(files: Mapping[str, bytes]) -> Any:
    try:
        return parse(files.get("data.json", b"{}"), BUNDLE_JSON)
    except JsonError:
        return {}
