"""Formatting changes how a file looks, and nothing that it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdp.bundle.build import read_folder
from pdp.engine.statements import read_statements
from pdp.policy.formatting import formatted
from policies import opa

ROOT = Path(__file__).parents[3]
OPA = Path(opa())

CEDAR = b"""// What this file is for.

// And whose.

@id("a")   // which one
permit(principal,action , // any
  resource) when { // only
 context.session.steps<3 && // few
   context.tool.name like "a//b*" }; // so far
// the end
"""
REGO = b"""# What this file is for.
package exequatur
 decision := {"deny":deny}   # all of it
deny contains "no" if {input.tool.bulk # many

}
"""
JSON = b"""{"engines": [{"engine":"cedar",
"role":"decide"}], "z": 1, "a": [1.50, 1e2, -0], "empty": [],
"many": ["one", "two",
"three"]}"""


def test_cedar_keeps_its_comments_and_what_it_says():
    made = formatted({"a.cedar": CEDAR}, None)[0]["a.cedar"]
    for comment in (b"// What this file is for.\n", b"// And whose.\n\n", b"// which one", b"// few", b"// the end"):
        assert comment in made
    before, after = (read_statements({"a.cedar": text})[0] for text in (CEDAR, made))
    assert (before.id, before.reads, before.principal) == (after.id, after.reads, after.principal)
    assert made != CEDAR
    assert formatted({"a.cedar": made}, None) == ({}, [])


def test_rego_keeps_its_comments():
    files, faults = formatted({"a.rego": REGO}, OPA)
    assert files["a.rego"].count(b"#") == 3
    assert b'deny contains "no" if' in files["a.rego"]
    assert faults == []


def test_json_keeps_order_and_numbers_as_they_are_written():
    made = formatted({"exequatur.json": JSON}, None)[0]["exequatur.json"]
    assert made.decode() == (
        '{\n  "engines": [\n    {\n      "engine": "cedar", "role": "decide"\n    }\n  ],\n  "z": 1,\n'
        '  "a": [1.50, 1e2, -0],\n  "empty": [],\n  "many": [\n    "one", "two", "three"\n  ]\n}\n'
    )
    assert json.loads(made) == json.loads(JSON)


def test_what_cannot_be_read_is_said_and_left_alone():
    broken = {
        "a.cedar": b"permit (principal;",
        "b.json": b'{"a": 1, "a": 2}',
        "c.rego": b"package a\nx if {\n",
        "d.rego": REGO,
        "deep.cedar": b"permit (principal, action, resource) when { " + b"(" * 800 + b"true" + b")" * 800 + b" };",
    }
    files, faults = formatted(broken, OPA)
    assert sorted(files) == ["d.rego"]
    assert [fault.partition("`: ")[0].strip("`") for fault in faults] == [
        "a.cedar:1",
        "b.json",
        "deep.cedar:1",
        "c.rego:3",
    ]


@pytest.mark.parametrize(
    "folder", ["policies/coding-agent", "policies/finance", "policies/support-triage", "exequatur/cli/starter"]
)
def test_what_we_ship_is_formatted(folder):
    assert formatted(read_folder(ROOT / folder), OPA) == ({}, [])
