"""Built-ins of the host beside those of a real `opa`, thousands of calls at a time.

A family of built-ins brings `tests/support/builtin_cases_<family>.py`, whose generators are marked `@cases("name")`:
each takes a seeded `random.Random` and a count, and gives that many tuples of arguments.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pdp.engine.builtins import BUILTINS, UNDEFINED, BuiltinError
from pdp.engine.builtins.values import RegoObject, RegoSet, Value, dump_value, parse_value, to_text
from pdp.engine.wasm import EvaluationError, Machine, RegoLimits, load_module
from policies import opa, rego

Arguments = tuple[Value, ...]
Generator = Callable[[random.Random, int], Iterable[Arguments]]

_GENERATORS: dict[str, Generator] = {}
# A byte that is no UTF-8, as Go quotes it: a text of OPA may hold one, a text of ours cannot, and the call is an error.
_NO_UNICODE = re.compile(r"(?<!\\)(?:\\\\)*\\x[89a-f][0-9a-f]")


def cases(*names: str) -> Callable[[Generator], Generator]:
    """Mark the generator of arguments for these built-ins."""

    def mark(generator: Generator) -> Generator:
        for name in names:
            assert name not in _GENERATORS, f"`{name}` has two generators"
            _GENERATORS[name] = generator
        return generator

    return mark


def refused(name: str, arguments: Arguments, *reasons: str) -> bool:
    """Tell whether ours refuses a call on purpose, for one of these reasons: OPA is not asked, it may never answer."""
    try:
        BUILTINS[name].function(*arguments)
    except BuiltinError as error:
        return any(reason in str(error) for reason in reasons)
    return False


def generators() -> Mapping[str, Generator]:
    """Give the generators of all families by the name of the built-in."""
    for file in sorted(Path(__file__).parent.glob("builtin_cases_*.py")):
        importlib.import_module(file.stem)
    return _GENERATORS


def generate(count: int, seed: str) -> dict[str, list[Arguments]]:
    """Give `count` argument tuples for each built-in that has a generator."""
    return {name: list(generator(random.Random(f"{seed} {name}"), count)) for name, generator in generators().items()}


def compare_with_opa(name: str, argument_tuples: Iterable[Arguments]) -> list[str]:
    """Give what differs for one built-in; an empty list is what a test wants."""
    return compare({name: list(argument_tuples)})


def compare(calls: Mapping[str, Sequence[Arguments]]) -> list[str]:
    """Put all calls through one `opa eval` and through our functions; gives each call that differs, readably."""
    theirs = ask_opa(calls)
    return [
        f"{name}({', '.join(map(to_text, arguments))[:500]}): opa {_shown(wanted)}, ours {_shown(given)}"
        for name, tuples in calls.items()
        for number, arguments in enumerate(tuples)
        if not _same(wanted := theirs[name].get(str(number)), given := ask_ours(name, arguments))
    ]


def compare_in_module(calls: Mapping[str, Sequence[Arguments]]) -> list[str]:
    """Put the calls through a compiled module and its host, one evaluation each, and compare with our functions.

    Arguments that JSON cannot hold are left out.
    """
    return [
        f"{name}({', '.join(map(to_text, arguments))[:500]}): module {_shown(found)}, ours {_shown(wanted)}"
        for name, tuples in calls.items()
        for arguments in tuples
        if _is_json(arguments)
        if (found := _ask_module(name, arguments)) != (wanted := ask_ours(name, arguments))
    ]


def ask_ours(name: str, arguments: Arguments) -> str | None:
    """Give our result as text in an array, or `None` for an error or no result."""
    known = BUILTINS[name]
    try:
        read = [parse_value(dump_value(argument)) for argument in arguments]
        result = known.function(*read)
        return None if result is UNDEFINED else to_text((parse_value(dump_value(result)),))
    except BuiltinError:
        return None


def ask_opa(calls: Mapping[str, Sequence[Arguments]]) -> dict[str, dict[str, str]]:
    """Give OPA's results as texts in an array, by the name of the built-in and the number of the call."""
    plain = {name: {str(n): args for n, args in enumerate(tuples) if _is_json(args)} for name, tuples in calls.items()}
    literal = {
        name: {str(n): args for n, args in enumerate(tuples) if not _is_json(args)} for name, tuples in calls.items()
    }
    document = RegoObject({name: RegoObject(numbered) for name, numbered in plain.items()})
    terms = RegoObject({name: RegoObject(numbered) for name, numbered in literal.items()})
    # What comes out of a function has no static type, so that arguments of wrong types are not a compilation error.
    rules = [
        "package t",
        f"terms(x) := {_ascii(dump_value(terms).decode())} if x",
        # Never defined: it makes the type any, or terms of one wrong type are a compilation error after all.
        "terms(x) := input[[x]]",
        *(
            f'r["{name}"][n] := s if {{ some n, a in {source}["{name}"]; s := sprintf("%v", [[{_call(name)}]]) }}'
            for name in calls
            for source in ("input", "terms(true)")
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.rego").write_text("\n".join(rules))
        command = [opa(), "eval", "-d", f"{folder}/t.rego", "-I", "-f", "json", "data.t.r"]
        done = subprocess.run(
            command, input=dump_value(document), capture_output=True, check=False, timeout=600, env={"TZ": "UTC"}
        )
    assert done.returncode == 0, _fault(done.stdout) if done.stdout else done.stderr[-2000:]
    found = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    return {name: found.get(name, {}) for name in calls}


def _ascii(source: str) -> str:
    # A byte-order mark is refused in a Rego file, and only strings hold such signs.
    return re.sub(r"[^ -~]", lambda found: json.dumps(found[0])[1:-1], source)


def _fault(answer: bytes) -> str:
    # What OPA says of a syntax error holds the whole line, which here holds thousands of values.
    return str([(error.get("message"), error.get("location")) for error in json.loads(answer)["errors"]])[:2000]


def _call(name: str) -> str:
    return f"{name}({', '.join(f'a[{n}]' for n in range(BUILTINS[name].arity))})"


def _same(wanted: str | None, given: str | None) -> bool:
    return wanted == given or (given is None and wanted is not None and _NO_UNICODE.search(wanted) is not None)


def _shown(result: str | None) -> str:
    return "nothing" if result is None else result[:500]


def _is_json(value: Value) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_json, value))
    if isinstance(value, RegoObject):
        return all(isinstance(key, str) and _is_json(value[key]) for key in value)
    return not isinstance(value, RegoSet)


@functools.cache
def _machine() -> Machine:
    rules = [
        f'decision := sprintf("%v", [[{_call(name).replace("a[", "input.a[")}]]) if input.name == "{name}"'
        for name in BUILTINS
        if not BUILTINS[name].needs_time
    ]
    return load_module(rego("\n".join(["package exequatur", *rules])), None, b"{}", "exequatur/decision", RegoLimits())


def _ask_module(name: str, arguments: Arguments) -> str | None:
    document = dump_value(RegoObject({"name": name, "a": arguments}))
    try:
        results = json.loads(_machine().evaluate(document, now_ns=0))
    except EvaluationError:
        return None
    return str(results[0]["result"]) if results else None
