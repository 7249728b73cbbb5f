"""The bundle's Rego as `opa` sees it: its rules with their lines, and what `opa eval` says of documents.

Rules: `opa` gets the bundle's own files in a folder of their own, with no network address of ours and no environment;
time is the case's; files that end in `_test.rego` are tests, and no policy.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pdp.bundle.build import rego_folder, run_opa
from pdp.engine.document import Facts, rego_document
from pdp.engine.reading import PolicyError

ENGINES: Final = ("rego", "opa")
"""The engines that judge by Rego."""

Place = tuple[str, int, int]
"""File, line and column."""

_ID: Final = re.compile(r'"id"\s*:\s*"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression of a rule's body, or of a body inside it; its source in one line.

    `counts` is false for a declaration (`some x in xs`): OPA's coverage leaves it out.
    """

    place: Place
    text: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `policy` is the `id` that it gives to its entry, or empty. An `else` is a rule of its own."""

    name: str
    place: Place
    policy: str
    expressions: tuple[Expression, ...]

    @property
    def title(self) -> str:
        """What people call it."""
        return self.policy or self.name


class Rego:
    """What `opa` knows of one bundle, as long as its folder is there."""

    def __init__(self, folder: Path, opa: Path, entrypoint: str) -> None:
        """Use `laid_out`."""
        self._folder, self._opa = folder, opa
        self._query = "data." + entrypoint.replace("/", ".")

    def rules(self) -> tuple[Rule, ...]:
        """Give all rules, by file and line. `default` has no condition, and is left out."""
        names = sorted(path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*.rego"))
        kept = (name for name in names if not name.endswith("_test.rego"))
        return tuple(rule for name in kept for rule in self._rules(name))

    def ask(self, facts: Sequence[Facts], *flags: str) -> dict[str, Any]:
        """Give what `opa eval` prints for all these documents in one run, with these flags too."""
        cases = [
            {"document": rego_document(each), "now_ns": int(each.now.timestamp() * 1_000_000) * 1000} for each in facts
        ]
        (self._folder.parent / "input.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")
        # The values of `with` are variables: OPA leaves a reference such as `c.document` undefined there.
        taken = "some c in input.cases; document := c.document; now_ns := c.now_ns"
        query = f"[x | {taken}; x := {self._query} with input as document with time.now_ns as now_ns]"
        return self._run("eval", "--format", "json", "-b", ".", "-i", "../input.json", *flags, query)

    def query(self, query: str, facts: Facts | None) -> list[Any]:
        """Give what a query of the author's own has for results, on one document or on none."""
        given = [] if facts is None else ["-i", "../input.json"]
        if facts is not None:
            (self._folder.parent / "input.json").write_text(json.dumps(rego_document(facts)), encoding="utf-8")
        said = self._run("eval", "--format", "json", "-b", ".", *given, "--", query)
        return [
            result.get("bindings") or [each["value"] for each in result["expressions"]]
            for result in said.get("result", [])
        ]

    def module(self, file: str) -> dict[str, Any]:
        """Give a file as OPA's syntax tree, without places."""
        return self._run("parse", file, "--format", "json")

    def _rules(self, file: str) -> Iterator[Rule]:
        module = self._run("parse", file, "--format", "json", "--json-include", "locations")
        package = ".".join(str(part["value"]) for part in module["package"]["path"][1:])
        for rule in module.get("rules", []):
            if not rule.get("default"):
                yield from _chain(package, file, rule)

    def _run(self, *arguments: str) -> dict[str, Any]:
        done = run_opa(self._opa, list(arguments), self._folder)
        try:
            value: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            value = {}
        if done.returncode != 0:
            said = (value.get("errors") or [{}])[0].get("message") or done.stderr.strip().partition("\n")[0]
            raise PolicyError(f"`opa {arguments[0]}` failed: {said or 'it gave no reason'}")
        return value


@contextmanager
def laid_out(files: Mapping[str, bytes], entrypoint: str, opa: Path | None) -> Iterator[Rego]:
    """Lay out the bundle's Rego for `opa`. Raises `OpaError` where there is none."""
    with rego_folder(files, opa) as (folder, program):
        yield Rego(folder, program, entrypoint)


def in_one_line(text: str) -> str:
    """Give source in one line, without its comments' line ends getting lost in it."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


def _chain(package: str, file: str, rule: dict[str, Any]) -> Iterator[Rule]:
    """Give a rule, and its `else`s."""
    name = ".".join(str(part["value"]) for part in rule["head"]["ref"]) if "ref" in rule["head"] else ""
    while True:
        head = rule["head"]["location"]
        first, last = _span(head)
        expressions = tuple(
            Expression((file, at["row"], at["col"]), in_one_line(_text(at)), counts)
            for at, counts in _expressions(rule)
            if not first <= (at["row"], at["col"]) <= last or _nested(at, rule)
        )
        found = _ID.search(_text(head))
        yield Rule(f"{package}.{name}", (file, head["row"], head["col"]), found[1] if found else "", expressions)
        if "else" not in rule:
            return
        rule = rule["else"]


def _expressions(node: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    """Give the places of all expressions in a rule, in bodies inside bodies too, but not in its `else`.

    With each, whether it is more than a declaration.
    """
    if isinstance(node, list):
        for item in node:
            yield from _expressions(item)
    elif isinstance(node, dict):
        terms = node.get("terms")
        if "index" in node and terms is not None:
            yield node["location"], not (isinstance(terms, dict) and "symbols" in terms)
        for name, member in node.items():
            if name not in ("else", "location"):
                yield from _expressions(member)


def _nested(at: dict[str, Any], rule: dict[str, Any]) -> bool:
    """Whether an expression inside the head is one of a body inside it, and not the head's own value."""
    return all(at != expression["location"] for expression in rule.get("body", []))


def _span(at: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the first and the last place of a source."""
    lines = _text(at).split("\n")
    first = (at["row"], at["col"])
    end = len(lines[-1]) + (at["col"] - 1 if len(lines) == 1 else 0)
    return first, (at["row"] + len(lines) - 1, end)


def _text(at: dict[str, Any]) -> str:
    return base64.b64decode(at["text"]).decode("utf-8")


def not_covered(report: dict[str, Any], rules: Sequence[Rule]) -> set[Place]:
    """Give the places that OPA did not come to; of a file that it does not report, all of them."""
    files = {name.removeprefix("./").lstrip("/"): said for name, said in report["coverage"]["files"].items()}
    found = {
        (file, place["start"]["row"], place["start"]["col"])
        for file, said in files.items()
        for place in said.get("not_covered") or ()
    }
    silent = {rule.place[0] for rule in rules} - files.keys()
    return found | {
        place
        for rule in rules
        if rule.place[0] in silent
        for place in (rule.place, *(each.place for each in rule.expressions))
    }
