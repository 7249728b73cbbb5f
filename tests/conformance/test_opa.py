"""OPA's own cases: compiled by `opa`, run in our machine, and never answered in another way than OPA does.

- *Refused* is what we do not take, with its name: a built-in that is not here, an input that is no JSON, a failing
  built-in that OPA leaves undefined and that denies here.
- The answer of a module is JSON, in which a set is a list in no order: such lists are compared as sets, where the case
  says so (`sort_bindings`) or is one of `SETS`.
- Built-ins inside the module know no strict errors. Cases that ask for them are held against `opa eval` without.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from others import folder
from pdp.bundle.build import compile_rego, find_opa
from pdp.engine.reading import PolicyError
from pdp.engine.rego import RegoEngine, compile_module
from pdp.engine.wasm import EvaluationError
from policies import opa

pytestmark = pytest.mark.conformance

NOW_NS = 1_760_000_000_000_000_000
SETS = {
    "baseandvirtualdocs/base/virtual: set",
    "containskeyword/ordinary deny rule",
    "defaultkeyword/set comprehension",
    "objectkeys/string_keys_found",
    "objectkeys/set_keys_found",
    "objectkeys/array_keys_found",
}
WRAPPER = "conformance/wrapper/bindings"
PLAIN = re.compile(r"data((?:\.\w+)+) = (?!input\b|data\b)\w+")


@dataclass(frozen=True)
class Case:
    """One case, with what is compiled for it: `entry` is asked, in `files`."""

    given: dict
    entry: str
    files: dict[str, bytes]

    @property
    def wants_error(self) -> bool:
        return "want_error" in self.given or "want_error_code" in self.given

    @property
    def data(self) -> object:
        return self.given.get("data") or {}

    def answers(self, result: object) -> bool:
        """Whether the value of the entry point, None for undefined, is what is wanted."""
        wanted = self.given.get("want_result") or []
        if self.entry == WRAPPER:
            got, ordered = result or [], False
        else:
            wanted = [value for bindings in wanted for value in bindings.values()]
            got, ordered = ([] if result is None else [result]), not self.given.get("sort_bindings")
        unordered = not ordered or self.given["note"] in SETS
        return exact(got) == exact(wanted) or (unordered and exact(in_order(got)) == exact(in_order(wanted)))


def exact(value: object) -> str:
    """Write a value so that what is equal is the same text: `3.0` is `3`, and `true` is no number."""
    text = json.dumps(value, sort_keys=True)
    return json.dumps(json.loads(text, parse_float=lambda digits: whole_or(float(digits))), sort_keys=True)


def whole_or(number: float) -> float:
    return int(number) if number.is_integer() else number


def in_order(value: object) -> object:
    """Sort all lists in a value."""
    if isinstance(value, list):
        return sorted((in_order(item) for item in value), key=exact)
    return {name: in_order(item) for name, item in value.items()} if isinstance(value, dict) else value


def read(given: dict) -> Case:
    query = given["query"]
    files = {f"case_{number}.rego": text.encode() for number, text in enumerate(given["modules"])}
    files["data.json"] = json.dumps(given.get("data") or {}).encode()
    plain = PLAIN.fullmatch(query)
    if plain:
        return Case(given, plain[1][1:].replace(".", "/"), files)
    names = sorted({name for bindings in given.get("want_result") or [] for name in bindings})
    bindings = "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"
    wrapper = f"package conformance.wrapper\n\nbindings contains {bindings} if {{\n\t{query}\n}}\n"
    return Case(given, WRAPPER, {**files, "wrapper.rego": wrapper.encode()})


def cases() -> list[Case]:
    with gzip.open(folder() / "opa-v1-cases.jsonl.gz") as file:
        return [read(json.loads(line)) for line in file]


def compiled(case: Case) -> tuple[bytes, bytes] | str:
    """Give the module and its machine code, or why there is none."""
    try:
        wasm = compile_rego(case.files, case.entry, find_opa(os.environ))
        return wasm, compile_module(wasm)
    except PolicyError as error:
        return str(error)


def document(given: dict) -> bytes | None:
    """Give the input; None where it is a Rego term that JSON cannot say."""
    if "input_term" not in given:
        return json.dumps(given["input"]).encode() if "input" in given else b""
    try:
        return json.dumps(json.loads(given["input_term"])).encode()
    except ValueError:
        return None


def lenient(case: Case) -> object:
    """Ask `opa eval`, without strict errors, for the entry point; None for undefined."""
    with tempfile.TemporaryDirectory() as name:
        for file, content in case.files.items():
            (Path(name) / file).write_bytes(content)
        (Path(name) / "input").write_bytes(document(case.given) or b"{}")
        command = [opa(), "eval", "-b", ".", "-i", "input", "data." + case.entry.replace("/", ".")]
        done = subprocess.run(command, cwd=name, capture_output=True, check=True, timeout=60)
    results = json.loads(done.stdout).get("result")
    return results[0]["expressions"][0]["value"] if results else None


class Refused(Exception):  # noqa: N818
    """What we do not take, by name."""


def answer(case: Case, module: tuple[bytes, bytes] | str) -> object:
    """Give the value of the entry point, None for undefined; raises `Refused` or `EvaluationError`."""
    if isinstance(module, str):
        raise Refused("does not compile")
    sources = {name: text for name, text in case.files.items() if name.endswith(".rego")}
    try:
        engine = RegoEngine.load(module[0], case.data, case.entry, module[1], sources=sources)
    except PolicyError as error:
        missing = re.search(r"the built-in `([a-z0-9_.]+)` is not here", str(error))
        name = f"`{missing[1]}`" if missing else "a reference that OPA's interpreter takes in its own way"
        raise Refused(name) from None
    asked = document(case.given)
    if asked is None:
        raise Refused("an input that is no JSON")
    results = json.loads(engine._machine.evaluate(asked, now_ns=NOW_NS))
    return results[0]["result"] if results else None


def outcome(case: Case, module: tuple[bytes, bytes] | str) -> tuple[str, str]:
    """Say how a case went: `right`, `lenient`, `refused` or `wrong`, and why."""
    try:
        found = answer(case, module)
    except Refused as refused:
        return "refused", str(refused)
    except EvaluationError as error:
        return ("right", "") if case.wants_error else ("refused", f"an error that OPA leaves undefined: {error}")
    if not case.wants_error and case.answers(found):
        return "right", ""
    if case.wants_error and case.given.get("strict_error") and exact(lenient(case)) == exact(found):
        return "lenient", ""
    return "wrong", exact(found)


def family(why: str) -> str:
    """Name what was refused so that it fits into a table."""
    if why.startswith("an error"):
        return "an error that OPA leaves undefined"
    return re.sub(r"`((?:io|crypto)\.\w+|\w+)\..*`", r"`\1.*`", why)


def test_each_case_is_answered_as_opa_does_or_refused_by_name(tally):
    every = cases()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        modules = list(pool.map(compiled, every))
    found = [(case, *outcome(case, module)) for case, module in zip(every, modules, strict=True)]
    counts = Counter(kind for _, kind, _ in found)
    refused = Counter(family(why) for _, kind, why in found if kind == "refused")
    wrong = [(case.given["file"], case.given["note"], why) for case, kind, why in found if kind == "wrong"]
    note = ", ".join(f"{why} {count}" for why, count in refused.most_common())
    strict = counts["lenient"]
    tally("OPA's cases", len(every) - strict, refused=counts["refused"], wrong=len(wrong), note=note)
    tally("OPA's cases: strict errors in a module, as `opa eval` without", strict, wrong=0)
    assert wrong == []
    assert len(every) == 999
    assert counts["right"] >= 0.7 * len(every), counts
