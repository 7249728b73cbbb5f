"""First guesses: reasons a person can check, the stricter one where it is not certain, and no claim ever loosens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_server_git.server import create_server

from exequatur.registry import Registry, definition_sha256
from pdp.policy.guesses import guess

TEXT = {"type": "string"}
CLAIMS = ("readOnlyHint", "destructiveHint", "openWorldHint", "idempotentHint")


def guessed(name: str, server: str = "box", claims: dict | None = None, /, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return guess(server, {"name": name, "inputSchema": schema, **({} if claims is None else {"annotations": claims})})


def marks(name: str, claims: dict | None = None, /, **properties) -> set[str]:
    entry = guessed(name, "box", claims, **properties).entry
    return {entry["access"], *(mark for mark in ("bulk", "egress") if entry.get(mark))}


async def test_a_published_server_is_guessed_as_a_person_would_start():
    listed = await create_server(None).list_tools()
    found = {}
    for tool in listed:
        entry = guess("git", tool.model_dump(mode="json", by_alias=True, exclude_none=True)).entry
        assert entry["resource"] == {"type": "Repository", "id": "repo_path"}
        assert entry["arguments"]["repo_path"] == {"kind": "path"}
        found[tool.name.removeprefix("git_")] = {entry["access"], *(m for m in ("bulk", "egress") if m in entry)}
    assert found == {
        "status": {"read"},
        "diff_unstaged": {"read"},
        "diff_staged": {"read"},
        "diff": {"read"},
        "commit": {"write", "egress"},  # a message can carry anything
        "add": {"write", "bulk"},
        "reset": {"write"},
        "log": {"read", "bulk"},
        "create_branch": {"write"},
        "checkout": {"write"},
        "show": {"read"},
        "branch": {"write"},  # its name does not say that it lists
    }


@pytest.mark.parametrize(
    "name",
    [
        "delete_file",
        "deleteFile",
        "get_or_create_user",
        "find_and_replace",
        "list_then_purge",
        "DROP_TABLE",
        "rm",
        "",
        "read_and_frobnicate",
        "frobnicate",
        "log_event",
        "execute_query",
        "getAndDelete",
        "d\u0435lete",
        "reader",
    ],
)
def test_what_does_not_plainly_read_is_a_write_whatever_the_server_claims(name):
    for claims in (None, {}, {"readOnlyHint": True, "destructiveHint": False, "openWorldHint": False}):
        assert "write" in marks(name, claims, path=TEXT)


@pytest.mark.parametrize(
    "name", ["get_commit", "list_issues", "readFile", "box_status", "search_code", "describe-table"]
)
def test_what_plainly_reads_is_a_read_until_the_server_says_otherwise(name):
    assert "read" in marks(name, path=TEXT)
    assert "write" in marks(name, {"readOnlyHint": False}, path=TEXT)
    assert "write" in marks(name, {"destructiveHint": True}, path=TEXT)
    assert "write" in marks(name, path=TEXT, command=TEXT)


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("send_note", {"text": TEXT}),
        ("get_page", {"url": TEXT}),
        ("get_page", {"where_to": {"type": "string", "format": "uri"}}),
        ("look_up", {"hostname": TEXT}),
        ("show_card", {"email": TEXT}),
        ("show_thing", {"note": TEXT}),
        ("show_thing", {"anything": {}}),
        ("show_thing", {"anything": {"type": "object"}}),
        ("show_thing", {"anything": True}),
        ("show_thing", {"cells": {"type": "array", "items": {"type": ["number", "string"]}}}),
    ],
)
def test_what_can_carry_data_out_is_marked_whatever_the_server_claims(name, properties):
    assert "egress" in marks(name, **properties)
    assert "egress" in marks(name, {"openWorldHint": False}, **properties)


@pytest.mark.parametrize(
    "properties",
    [
        {"path": TEXT},
        {"order_id": TEXT, "sort": TEXT},
        {"size": {"type": "integer"}, "on": {"type": "boolean"}},
        {"mode": {"enum": ["a", "b"]}},
        {"ids": {"type": "array", "items": TEXT}},
        {},
    ],
)
def test_what_only_picks_something_out_stays_inside_until_the_server_says_otherwise(properties):
    assert "egress" not in marks("show_thing", **properties)
    assert "egress" in marks("show_thing", {"openWorldHint": True}, **properties)


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("list_users", {"team_id": TEXT}),
        ("get_users", {"ids": {"type": "array", "items": TEXT}}),
        ("get_users", {"id": TEXT, "limit": {"type": "integer"}}),
        ("get_everything", {}),
    ],
)
def test_what_reaches_many_or_does_not_say_which_one_is_bulk(name, properties):
    assert "bulk" in marks(name, **properties)
    assert "bulk" not in marks("get_user", id=TEXT)


@pytest.mark.parametrize(
    ("name", "rule", "kind"),
    [
        ("path", TEXT, {"kind": "path"}),
        ("sourceFile", {"type": ["string", "null"]}, {"kind": "path"}),
        ("paths", {"type": "array", "items": TEXT}, {"kind": "path"}),
        ("dir", {"anyOf": [TEXT, {"type": "null"}]}, {"kind": "path"}),
        ("url", TEXT, {"kind": "url"}),
        ("target", {"type": "string", "format": "uri"}, {"kind": "url"}),
        ("host", TEXT, {"kind": "host"}),
        ("command", TEXT, {"kind": "command"}),
        ("command", {"type": "array", "items": TEXT}, {"kind": "argv"}),
        ("path", {"type": "integer"}, None),
        ("file", {"enum": ["a", "b"]}, None),
        ("profile", TEXT, None),
        ("note", TEXT, None),
    ],
)
def test_an_argument_is_canonicalised_by_what_it_is(name, rule, kind):
    assert guessed("do", **{name: rule}).entry.get("arguments", {}).get(name) == kind


def test_what_a_schema_names_elsewhere_is_looked_up_and_no_further_than_it_goes():
    schema = {
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/Where"}, "loop": {"$ref": "#/$defs/Loop"}},
        "$defs": {"Where": {"type": "string", "format": "path"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}]}},
    }
    found = guess("box", {"name": "show", "inputSchema": schema}).entry
    assert found["arguments"] == {"where": {"kind": "path"}}
    assert found["egress"]  # nobody can say what the other one is


def test_a_schema_that_fans_out_without_end_costs_nothing():
    loop = {"anyOf": [{"$ref": "#/$defs/Loop"}] * 1_000}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/Loop"}}, "$defs": {"Loop": loop}}
    assert {"bulk", "egress"} <= guess("box", {"name": "show", "inputSchema": schema}).entry.keys()


def test_files_beside_a_folder_are_joined_on_it():
    found = guessed("add", repo_path=TEXT, files={"type": "array", "items": TEXT}).entry["arguments"]
    assert found == {"repo_path": {"kind": "path"}, "files": {"kind": "path", "base": "repo_path"}}


@pytest.mark.parametrize(
    ("properties", "resource"),
    [
        ({"source_path": TEXT, "target_path": TEXT}, {"type": "File", "id": "target_path"}),
        ({"command": TEXT, "cwd": TEXT}, {"type": "Command", "id": "command"}),
        ({"customer_id": TEXT, "note": TEXT}, {"type": "Customer", "id": "customer_id"}),
        ({"agent_id": TEXT}, None),  # a policy's own word
        ({"paths": {"type": "array", "items": TEXT}}, None),
        ({"note": TEXT}, None),
    ],
)
def test_the_resource_is_the_one_thing_that_an_argument_names(properties, resource):
    assert guessed("do", **properties).entry.get("resource") == resource


WORDS = st.sampled_from(
    ["get", "list", "read", "delete", "frob", "send", "all", "log", "and", "commit", "file", "url", "status"]
)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map("_".join)
RULES = st.sampled_from(
    [
        TEXT,
        {"type": "integer"},
        {"type": "array", "items": TEXT},
        {},
        {"enum": ["a"]},
        {"type": "object"},
        True,
        {"anyOf": [TEXT, {"type": "null"}]},
        {"type": "string", "format": "uri"},
        {"oneOf": [TEXT, {"type": "array"}]},
    ]
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(
        ["path", "url", "note", "id", "limit", "command", "repo_path", "files", "customer_id", "to", "agent_id"]
    ),
    RULES,
    max_size=3,
)
HINTS = st.dictionaries(st.sampled_from(CLAIMS), st.booleans() | st.none() | st.text(max_size=2))


@given(NAMES, ARGUMENTS, HINTS, st.sampled_from(CLAIMS), st.booleans())
def test_a_claim_of_the_server_never_makes_a_guess_weaker(name, arguments, hints, hint, value):
    """Not one, and not beside any others."""
    hints.pop(hint, None)
    without, claimed = (marks(name, claims, **arguments) for claims in (hints, {**hints, hint: value}))
    assert without - {"read"} <= claimed - {"read"}


@given(NAMES, ARGUMENTS, HINTS)
def test_every_guess_can_be_served_loosens_nothing_and_has_its_reason(name, arguments, hints):
    schema = {"type": "object", "properties": arguments, "required": list(arguments)}
    definition = {"name": name, "inputSchema": schema, "annotations": hints}
    found = guess("box", definition)
    assert not {"outage", "open", "definition", "definition_sha256"} & found.entry.keys()
    assert all(found.why.values())
    entry = {"definition": definition, "definition_sha256": definition_sha256(definition).hex(), **found.entry}
    tool = Registry.parse(json.dumps({"tools": {f"box/{name}": entry}}).encode()).tools[f"box/{name}"]
    assert tool.dangerous
