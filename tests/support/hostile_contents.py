"""Bundles that attack whoever compiles and proves them: signed well, and hostile inside.

Each says what its refusal must say. All of them reach the process that proves bundles, and must not reach further.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, Final

import wasmtime

import bank
from exequatur.registry import definition_sha256
from hostile_archives import Make
from policies import rego
from sealing import files, seal

ANY: Final = b"permit (principal, action, resource)"


def changed(**content: bytes | Callable[[], bytes] | None) -> Make:
    """Give the bank's bundle with files changed, signed well; what is dear to make is made when it is needed."""

    def make(sequence: int) -> bytes:
        made = {name: value() if callable(value) else value for name, value in content.items()}
        return seal(files(**made), sequence)

    return make


def cedar(text: bytes | Callable[[], bytes]) -> Make:
    """Give the bank's bundle with one more file of Cedar."""
    return changed(x_cedar=text)


def when(condition: bytes) -> Make:
    """Give it with one more policy, under this condition."""
    return cedar(ANY + b" when { " + condition + b" };")


def wasm(text: str) -> Make:
    """Give it with another module, written as text."""
    return changed(policy_wasm=lambda: bytes(wasmtime.wat2wasm(text)))


def said_in(name: str, **members: Any) -> Make:
    """Give it with other members in one of its JSON files."""
    return changed(
        **{f"{name}_json": lambda: json.dumps({**json.loads(bank.files()[f"{name}.json"]), **members}).encode()}
    )


def tool(schema: dict[str, Any], name: str = "bomb", pin: str = "") -> Make:
    """Give it with one more tool, of this schema."""

    def tools() -> bytes:
        listed = json.loads(bank.files()["tools.json"])["tools"]
        definition = {"name": name, "description": "x", "inputSchema": {"type": "object", **schema}}
        sha256 = pin or definition_sha256(definition).hex()
        listed[f"bank/{name}"] = {"definition": definition, "definition_sha256": sha256, "access": "read"}
        return json.dumps({"tools": listed}).encode()

    return changed(tools_json=tools, schema_cedarschema=None)


def agent(name: str, **members: Any) -> Make:
    """Give it with one more agent."""

    def agents() -> bytes:
        listed = json.loads(bank.files()["agents.json"])["agents"]
        return json.dumps({"agents": {**listed, name: {"owner": "x", **members}}}).encode()

    return changed(agents_json=agents, schema_cedarschema=None)


def cases(text: str) -> Make:
    """Give it with another file of cases."""
    return changed(cases__bank_yaml=text.encode())


def rule(expression: str, before: str = "") -> Make:
    """Give it with a rule that evaluates this before it answers, as it must for its case."""
    source = (
        f"package exequatur\n\n{before}\n\n"
        f'decision := {{"deny": deny}}\n\ndeny contains "bang" if {{\n\t{expression}\n}}\n'
    )
    return changed(decision_rego=source.encode(), policy_wasm=lambda: rego(source))


def _fan_out() -> dict[str, Any]:
    """References that fan out: ten thousand million members, in two kilobytes."""
    levels = {
        f"l{n}": {"type": "object", "properties": {f"m{m}": {"$ref": f"#/$defs/l{n + 1}"} for m in range(100)}}
        for n in range(6)
    }
    return {"properties": {"x": {"$ref": "#/$defs/l0"}}, "$defs": {**levels, "l6": {"type": "string"}}}


def _ladder() -> dict[str, Any]:
    """Alternatives inside each other: a million million looks at one text, in two kilobytes."""
    steps = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(40)}
    return {"properties": {"x": {"$ref": "#/$defs/l0"}}, "$defs": {**steps, "l40": {"type": "string"}}}


@functools.cache
def _laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "cases: []\n" + "\n".join(lines) + "\n"


def _case(**members: Any) -> str:
    usual = {"name": "x", "agent": "teller", "tool": "bank/look", "arguments": {"account": "7"}}
    return json.dumps([{**usual, "want": {"effect": "allow"}, **members}])


def _endless_cases() -> Make:
    """Give cases that nothing is wrong with, for an hour."""
    parameters = ", ".join(f"{{a: '{n}'}}" for n in range(1_000))
    text = "".join(
        f"- name: {number} ${{a}}\n  agent: teller\n  tool: bank/look\n  arguments: {{account: $a}}\n"
        f"  want: {{effect: allow}}\n  parameters: [{parameters}]\n"
        for number in range(10)
    ).encode()
    return changed(**{f"cases__n{number}_yaml": text for number in range(60)})


_SHARED: Final = '(import "env" "memory" (memory 2))'
_NOT_OPAS: Final = "`policy.wasm`: it does not start as a module that `opa build` made"
_TOO_DEEP: Final = r"`x.cedar:1`: this policy nests too deep or is too long"
_CASE_FAILED: Final = r"1 of 1 cases failed: `cases/bank.yaml:\d+`: case `a teller looks`"

INSIDE: Final[dict[str, tuple[str, Make]]] = {
    "cedar-800-parentheses": (_TOO_DEEP, when(b"(" * 800 + b"true" + b")" * 800)),
    "cedar-2000-negations": (_TOO_DEEP, when(b"!" * 20_000 + b"true")),
    "cedar-20000-ifs": (_TOO_DEEP, when(b"if true then true else " * 20_000 + b"true")),
    "cedar-long-or": (_TOO_DEEP, when(b"true" + b" || true" * 30_000)),
    "cedar-long-path": (_TOO_DEEP, when(b"context" + b".a" * 30_000)),
    "cedar-deep-sets": (_TOO_DEEP, when(b"[" * 5_000 + b"1" + b"]" * 5_000 + b" == 1")),
    "cedar-five-megabytes": (r"`x.cedar`: it has \d{7} bytes, the limit is", cedar(lambda: b"// " + b"x" * 5_000_000)),
    "cedar-many-policies": ("more than 20000 policies", cedar(lambda: (ANY + b";\n") * 20_001)),
    "cedar-open-quote": ("is a quote left open", cedar(ANY + b' when { "x };')),
    "cedar-no-utf8": (r"`x.cedar:2`: not UTF-8", cedar(b"\n\xff" + ANY + b";")),
    "cedar-turned-comment": (r"`x.cedar:1`: a control character", cedar("// \u202e ;)ecruoser\n".encode() + ANY + b";")),
    "cedar-hidden-line": (r"`x.cedar:1`: a control character", cedar(b"// x\r" + ANY + b";")),
    "cedar-nul": (r"`x.cedar:1`: a control character", cedar(ANY + b"\0;")),
    "cedar-id-twice": ("the id `permit.teller` is already that", cedar(b'@id("permit.teller")\n' + ANY + b";")),
    "cedar-soft-permit": ("it has no meaning on a permit", cedar(b'@effect("warn")\n' + ANY + b";")),
    "cedar-misspelt-effect": ("`@effect` must be", cedar(b'@effect("wran")\nforbid (principal, action, resource);')),
    "cedar-unknown-annotation": ("unknown annotation `@off`", cedar(b"@off\n" + ANY + b";")),
    "cedar-unlinked-template": ("a template has no effect by itself", cedar(b'@id("t")\npermit (principal == ?principal, action, resource);')),
    "cedar-written-link": ("`links.json:1`: `/links/0/principal/type` must be the name of a type", changed(
        x_cedar=b'@id("t")\npermit (principal == ?principal, action, resource);',
        links_json=b'{"links":[{"template":"t","id":"l","principal":{"type":"Agent::\\"x\\",action,resource);permit(principal","id":"x"}}]}',
    )),
    "cedar-no-permit": ("no Cedar policy permits anything", changed(bank_cedar=b"forbid (principal, action, resource);")),
    "cedar-other-schema": ("not what `tools.json` and `agents.json` give", changed(schema_cedarschema=b"entity Agent;")),
    "cedar-in-capitals": ("`X.CEDAR`: nothing reads it by this name", lambda n: seal({**files(), "X.CEDAR": b"forbid (principal, action, resource);"}, n)),
    "names-alike": ("`notes.txt`: it differs from `NOTES.txt`", lambda n: seal({**files(), "NOTES.txt": b"", "notes.txt": b""}, n)),
    "rego-range": (_CASE_FAILED, rule("count([x | some x in numbers.range(1, 10000000)]) > 0")),
    "rego-triple-loop": (_CASE_FAILED, rule(
        "count([1 | some a in many; some b in many; some c in many]) > 0", "many := numbers.range(1, 1000)"
    )),
    "rego-doubling": (_CASE_FAILED, rule(
        'count(replace(replace(long, "a", long), "a", long)) > 0',
        'long := concat("", ["a" | some _ in numbers.range(1, 20000)])',
    )),
    "rego-regex-program": (_CASE_FAILED, rule('regex.replace(input.input.account, "((a{1000}){1000}){1000}", "b") == "c"')),
    "rego-deep-json": (_CASE_FAILED, rule(
        'json.unmarshal(concat("", [concat("", ["[" | some _ in numbers.range(1, 50000)]), ""])) == 1'
    )),
    "rego-network": ("the built-in `http.send` is not here", rule('http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200')),
    "rego-environment": ("the built-in `opa.runtime` is not here", rule("opa.runtime().env.PATH != input.input.account")),
    "data-of-a-million-numbers": (r"`policy.wasm`: .*(memory|stopped)", changed(
        data_json=lambda: json.dumps({"x": [list(range(100))] * 9_500}).encode()
    )),
    "data-nested": ("data belongs in one `data.json`", changed(sub__data_json=b"{}")),
    "wasm-no-magic": ("`policy.wasm`: not a WebAssembly module", changed(policy_wasm=b"MZ\x90\0" * 100)),
    "wasm-cut-short": ("`policy.wasm`: not a WebAssembly module", changed(policy_wasm=lambda: bank.files()["policy.wasm"][:-5000])),
    "wasm-empty": (f"{_NOT_OPAS}|it has no memory to share", wasm("(module)")),
    "wasm-wants-host": ("`policy.wasm`: it imports `system`", wasm('(module (import "env" "system" (func (param i32))))')),
    "wasm-wants-wasi": ("`policy.wasm`: it imports `fd_write`", wasm('(module (import "wasi_snapshot_preview1" "fd_write" (func)))')),
    "wasm-four-gigabytes": (f"{_NOT_OPAS}|memory", wasm('(module (import "env" "memory" (memory 65536)))')),
    "wasm-own-memories": (_NOT_OPAS, wasm(f"(module {_SHARED} (memory 60000))")),
    "wasm-huge-table": (_NOT_OPAS, wasm(f"(module {_SHARED} (table 10000000 funcref))")),
    "wasm-trap-at-start": (_NOT_OPAS, wasm(f"(module {_SHARED} (func $f unreachable) (start $f))")),
    "wasm-loop-at-start": (_NOT_OPAS, wasm(f"(module {_SHARED} (func $f (loop $l (br $l))) (start $f))")),
    "wasm-recursion-at-start": (_NOT_OPAS, wasm(f"(module {_SHARED} (func $f (call $f)) (start $f))")),
    "wasm-growing-at-start": (_NOT_OPAS, wasm(
        f"(module {_SHARED} (func $f (loop $l (drop (memory.grow (i32.const 1000))) (br $l))) (start $f))"
    )),
    "wasm-many-globals": (f"{_NOT_OPAS}|not a WebAssembly module", wasm(
        f"(module {_SHARED} {' '.join(['(global i64 (i64.const 1))'] * 50_000)})"
    )),
    "wasm-outside-its-memory": (_NOT_OPAS, wasm(
        f'(module {_SHARED} (func (export "opa_malloc") (param i32) (result i32) (i32.const -8))'
        ' (func (export "opa_json_parse") (param i32 i32) (result i32) (i32.const -8))'
        ' (func (export "opa_heap_ptr_get") (result i32) (i32.const -8)))'
    )),
    "wasm-data-outside": (_NOT_OPAS, wasm(f'(module {_SHARED} (data (i32.const 2000000000) "x"))')),
    "wasm-of-another-policy": ("there is no entry point `exequatur/decision`", changed(
        policy_wasm=lambda: rego("package other\n\ndecision := {}\n", entrypoint="other/decision")
    )),
    "yaml-laughs": (r"`cases/bank.yaml:\d+`: anchors and aliases", cases(_laughs())),
    "yaml-object": (r"`cases/bank.yaml:\d+`: tags are not taken", cases("- !!python/object/apply:os.system ['id']\n")),
    "yaml-deep": (r"`cases/bank.yaml:\d+`: it nests too deep", cases("- " + "[" * 20_000 + "]" * 20_000)),
    "yaml-large": (r"`cases/bank.yaml`: it has \d{7} bytes", cases("# " + "x" * 2**20 + "\n[]")),
    "cases-writing-much": ("write more than 1048576 characters", cases(
        "- name: x\n  agent: teller\n  tool: bank/look\n"
        f"  arguments: {{account: '{'${a}' * 20}'}}\n  want: {{effect: allow}}\n  parameters: [{{a: '{'a' * 60_000}'}}]\n"
    )),
    "cases-none": ("no case in `cases/", cases("[]")),
    "cases-hoping": ("cases failed", cases(_case(want={"effect": "deny"}))),
    "cases-of-nobody": ("cases failed", cases(_case(agent="mallory"))),
    "manifest-no-object": ("`exequatur.json:1`", changed(exequatur_json=b'["cedar"]')),
    "manifest-engines-text": (r"`exequatur.json:\d+`: `/engines", said_in("exequatur", engines="cedar")),
    "manifest-nobody-decides": ("must give one engine the role `decide`", said_in("exequatur", engines=[{"engine": "cedar", "role": "restrict"}])),
    "manifest-engine-twice": ("must list each engine once", said_in("exequatur", engines=[{"engine": "cedar", "role": "decide"}] * 2)),
    "manifest-only-rego": ("no engine in `exequatur.json` reads it", said_in(
        "exequatur", engines=[{"engine": "rego", "role": "decide", "entrypoint": "exequatur/decision"}]
    )),
    "manifest-outage": (r"`exequatur.json:\d+`: `/outage/max_s", said_in("exequatur", outage={"max_s": -1})),
    "manifest-other-document": (r"`exequatur.json:\d+`: `/document_version", said_in("exequatur", document_version=2)),
    "manifest-escaping-entrypoint": (r"`exequatur.json:\d+`: `/engines/1/entrypoint", said_in("exequatur", engines=[
        {"engine": "cedar", "role": "decide"}, {"engine": "rego", "role": "restrict", "entrypoint": "../../x"},
    ])),
    "tools-fan-out": ("its arguments have more than 10000 parts|schema", tool(_fan_out())),
    "tools-alternatives": ("looks at one value more than 1000 times", tool(_ladder())),
    "tools-reference-outside": (r"`tools.json:\d+`", tool({"properties": {"x": {"$ref": "file:///etc/passwd"}}})),
    "tools-slow-pattern": (r"`tools.json:\d+`", tool({"properties": {"x": {"type": "string", "pattern": "^(?=(a+)+$)"}}})),
    "tools-huge-pattern": (r"`tools.json:\d+`", tool({"properties": {"x": {"type": "string", "pattern": "((a{1000}){1000}){1000}"}}})),
    "tools-hostile-member": (r"is a reserved name", tool({"properties": {"__entity": {"type": "string"}}})),
    "tools-other-pin": ("is not the definition's digest", tool({}, pin="00" * 32)),
    "tools-hostile-name": (r"`tools.json:\d+`", tool({}, name="../x\n")),
    "agents-control-name": (r"`agents.json:\d+`: `/agents", agent("teller\x1b[2J")),
    "agents-turned-name": (r"`agents.json:\d+`: `/agents", agent("\u202erellet")),
    "agents-long-name": (r"`agents.json:\d+`: `/agents", agent("x" * 300)),
    "agents-hostile-team": (r"`agents.json:\d+`", agent("x", teams=['"]; permit (principal, action, resource); //\n'])),
    "agents-wrong-enforcers": (r"`agents.json:\d+`", agent("x", enforcers={"*": True})),
    "limits-negative": (r"`limits.json:\d+`: `/max_steps", said_in("limits", max_steps=-1)),
    "limits-huge": (r"`limits.json`: a number would change|`/max_steps", said_in("limits", max_steps=10**30)),
    "limits-unknown": (r"`limits.json:\d+`", said_in("limits", max_everything=1)),
}  # fmt: skip

ENDLESS: Final[dict[str, tuple[str, Make]]] = {
    "cases-without-end": (r"used more than \d+ s of processor time", _endless_cases()),
}
"""What takes as long as the proof may."""
