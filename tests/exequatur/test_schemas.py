"""The published schemas: what is wrong is named by line and member, in words that say what is wanted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur import schemas
from exequatur.schemas import NAMES, Fault, check, line_of, schema, text
from exequatur.settings import describe
from ledger.settings import LedgerSettings

ROOT = Path(__file__).parents[2]
TEXT = b"""{
  "a": [1,
    {"b": "x:y\\"{", "a/b~":
      {"t": 1}
    },
    3],
  "c": {"b": 1, "n\\u0061me": 5,
    "d": [[1], [
       2]]}
}"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def objects(node: object):
    if isinstance(node, dict):
        if "properties" in node and isinstance(node["properties"], dict):
            yield node
        for item in node.values():
            yield from objects(item)
    elif isinstance(node, list):
        for item in node:
            yield from objects(item)


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_2020_12_and_says_where_it_is_published(name):
    jsonschema_rs.meta.validate(schema(name))
    assert schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(name)["$id"] == f"https://exequatur.dev/schemas/v1/{name}.schema.json"
    assert schema(name)["title"]
    assert schema(name)["description"]
    assert text(name).endswith("}\n")


@pytest.mark.parametrize("name", ["agents", "exequatur", "limits", "links", "tools"])
def test_a_closed_schema_helps_at_each_member(name):
    for node in objects(schema(name)):
        if "type" not in node or node.get("title") == "The pinned definition":
            continue  # a condition; and what a server says of its tool is not ours to close
        assert node["additionalProperties"] is False
        for member, rule in node["properties"].items():
            assert {"description", "$ref", "properties"} & rule.keys(), member


def test_all_that_is_in_the_folder_is_published_and_nothing_else():
    assert {path.name for path in (ROOT / "exequatur/schemas").glob("*.json")} == {f"{n}.schema.json" for n in NAMES}


def test_what_is_generated_is_what_the_code_gives(script):
    """If not: python docs/generate.py."""
    for path, wanted in script.files().items():
        assert (ROOT / path).read_text() == wanted, path


def test_what_a_daemon_prints_of_its_settings_is_what_their_schema_takes():
    settings = LedgerSettings(folder="a", origin="example.org/audit", key="k", unsafe_plaintext=True, writers=("w",))
    assert check("ledger", tomllib.loads(describe(settings))) is None
    assert str(check("ledger", {"wirters": []})) == "`/wirters` is not known: did you mean `writers`?"
    assert str(check("pdp", {"workers": 0})) == "`/workers` must be a whole number from 1 to 64"
    assert str(check("sidecar", {"agents": [{"agent": "a"}]})) == "`/agents/0/socket` is missing"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "the file must be an object"),
        ({}, "`/tools` is missing"),
        ({"tools": {"run": {}}}, "`/tools/run` must be named `<server>/<tool>`, of ASCII letters, digits and `._-`"),
        ({"tools": {"a/b": {"acces": 1}}}, "`/tools/a~1b/acces` is not known: did you mean `access`?"),
        ({"tools": {}, "x" * 300: 1}, f"`/{'x' * 198}…` is not known: remove it, or correct its name"),
        ({"tools": {}, "a\n`": 1}, "`/a\\n'` is not known: remove it, or correct its name"),
        ({"tools": {}, "$schema": 1}, "`/$schema` must be a text"),
    ],
)
def test_a_fault_says_what_is_wanted_in_words_fit_for_a_terminal(value, words):
    assert str(check("tools", value)) == words


def test_a_fault_never_holds_a_value():
    for wrong in ("SECRET", ["SECRET"], {"SECRET": "SECRET"}, 1.5):
        for member in schema("tools")["$defs"]["tool"]["properties"]:
            fault = check("tools", {"tools": {"a/b": {member: wrong}}})
            assert fault is not None
            assert "SECRET" not in fault.wanted


def test_a_file_that_says_nothing_yet_is_a_good_one():
    assert check("tools", {"tools": {}}) is None
    assert check("limits", {"$schema": "https://exequatur.dev/schemas/v1/limits.schema.json"}) is None


@pytest.mark.parametrize(
    ("pointer", "line"),
    [
        ("", 1),
        ("/a", 2),
        ("/a/0", 2),
        ("/a/1", 3),
        ("/a/1/b", 3),
        ("/a/1/a~1b~0", 3),
        ("/a/1/a~1b~0/t", 4),
        ("/a/2", 6),
        ("/a/9", 2),
        ("/c", 7),
        ("/c/b", 7),
        ("/c/name", 7),
        ("/c/d", 8),
        ("/c/d/1", 8),
        ("/c/d/1/0", 9),
        ("/c/missing", 7),
        ("/a/1/b/deeper", 3),
        ("/missing/b", 1),
    ],
)
def test_a_member_is_found_on_its_line_and_a_missing_one_where_it_belongs(pointer, line):
    json.loads(TEXT)
    assert line_of(TEXT, pointer) == line
    assert Fault(pointer, "is wrong").located("x.json", TEXT).startswith(f"`x.json:{line}`: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_member_of_any_file_is_found_on_the_line_where_it_is(value):
    """Written with one member a line, each member's line is known."""
    data = json.dumps(value, indent=1).encode()
    pointers = [""]

    def walk(node: object, at: str) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, item in items:
            pointers.append(f"{at}/{schemas.escape(str(name))}")
            walk(item, pointers[-1])

    walk(value, "")
    starts = [n for n, line in enumerate(data.decode().split("\n"), 1) if line.strip() not in ("}", "},", "]", "],")]
    assert [line_of(data, pointer) for pointer in pointers] == starts


def test_the_schemas_are_compiled_when_they_are_asked_for_and_the_sdk_does_not_load_them():
    script = "import sys, exequatur.client; print('jsonschema_rs' in sys.modules, 'exequatur.schemas' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
