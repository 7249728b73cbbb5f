"""The registry: pinned definitions, arguments that are checked and canonicalised, marks that cannot contradict."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_server_git.server import create_server

from exequatur.registry import ArgumentError, Registry, RegistryError, Resource, Tool, definition_sha256
from exequatur.trust.canonical import canonical

SCHEMA = {
    "type": "object",
    "properties": {
        "repo_path": {"type": "string"},
        "files": {"type": "array", "items": {"type": "string"}},
        "command": {"type": "string"},
        "words": {"type": "array"},
        "url": {"type": ["string", "null"]},
        "host": {},
        "message": {"type": "string"},
    },
}
KINDS = {
    "repo_path": {"kind": "path"},
    "files": {"kind": "path", "base": "repo_path"},
    "command": {"kind": "command"},
    "words": {"kind": "argv"},
    "url": {"kind": "url"},
    "host": {"kind": "host"},
}


def definition(**members) -> dict:
    return {"name": "run", "description": "Runs something", "inputSchema": SCHEMA, **members}


def entry(**members) -> dict:
    found = {"definition": definition(), "access": "read", "arguments": KINDS, **members}
    pin = definition_sha256(found["definition"]).hex() if isinstance(found["definition"], dict) else "00" * 32
    return {"definition_sha256": pin, **found}


def registry(name: str = "box/run", **members) -> Registry:
    return Registry.parse(json.dumps({"tools": {name: entry(**members)}}).encode())


def tool(**members) -> Tool:
    return registry(**members).tools["box/run"]


def test_a_tool_is_read_whole():
    found = tool(
        access="write",
        bulk=True,
        egress=True,
        data_classes=["pii"],
        environment="prod",
        labels=["untrusted_input", "secret_read"],
        price_microusd=1500,
        resource={"type": "Repository", "id": "repo_path"},
    )
    assert (found.full, found.server, found.name) == ("box/run", "box", "run")
    assert found.definition_sha256 == definition_sha256(definition())
    assert (found.data_classes, found.labels) == (("pii",), ("untrusted_input", "secret_read"))
    assert (found.environment, found.price_microusd, found.outage) == ("prod", 1500, "deny")
    assert (found.resource_type, found.resource_id) == ("Repository", "repo_path")
    assert found.groups == ("bulk", "dangerous", "egress", "write")
    assert found.argument_kinds == {name: rule["kind"] for name, rule in KINDS.items()}


def test_an_editors_schema_is_no_business_of_the_registry():
    data = json.dumps({"$schema": "./tools.schema.json", "tools": {"box/run": entry()}})
    assert Registry.parse(data.encode()).tools.keys() == {"box/run"}


def test_what_is_not_said_is_the_careful_answer():
    found = tool(arguments={})
    assert found.dangerous
    assert found.groups == ("dangerous", "read")
    assert found.resolve({"message": "x"}) == Resource("Tool", "box/run", {})


def test_the_registry_never_changes():
    found = registry()
    with pytest.raises(TypeError):
        found.tools["evil/tool"] = found.tools["box/run"]
    with pytest.raises(TypeError):
        found.tools["box/run"].definition["name"] = "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.tools["box/run"].access = "write"


def test_arguments_become_a_resource_in_canonical_form():
    found = tool(resource={"type": "Repository", "id": "repo_path"}).resolve(
        {
            "repo_path": "/srv//repo/",
            "files": ["./a/b.py", "/etc/passwd"],
            "command": "git status",
            "words": ["rm", "x y"],
            "url": "https://Example.com/a",
            "host": "EXAMPLE.com.",
            "message": "kept out of the attributes",
        }
    )
    assert found == Resource(
        "Repository",
        "/srv/repo",
        {
            "repo_path": "/srv/repo",
            "files": ["/srv/repo/a/b.py", "/etc/passwd"],
            "command": {"argv": ["git", "status"], "program": "git", "simple": True},
            "words": {"argv": ["rm", "x y"], "program": "rm", "simple": True},
            "url": {"scheme": "https", "host": "example.com", "port": 443, "path": "/a"},
            "host": "example.com",
        },
    )


def test_an_argument_that_is_absent_or_null_has_no_attribute():
    assert tool().resolve({"files": ["a"], "url": None}).attributes == {"files": ["a"]}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("repo_path", "/a//b", "/a/b"),
        ("url", "https://Example.com", "https://example.com:443/"),
        ("url", "http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("command", "/bin/rm x", "rm"),
        ("words", ["git"], "git"),
        ("host", "A.com", "a.com"),
        ("message", "plain text", "plain text"),
    ],
)
def test_the_resource_is_named_by_an_argument(name, value, found):
    assert tool(resource={"type": "Thing", "id": name}).resolve({name: value}).id == found


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("repo_path", {}),
        ("url", {"url": None}),
        ("files", {"files": ["/a"]}),
        ("message", {"message": ""}),
        ("message", {"message": "a\u202eb"}),
        ("message", {"message": "a\0b"}),
    ],
)
def test_a_resource_that_cannot_be_named_is_refused(name, arguments):
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        tool(resource={"type": "Thing", "id": name}).resolve(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"repo_path": "/srv/../etc"},
        {"files": ["ok", "%2e%2e/x"]},
        {"files": [["nested"]]},
        {"command": "echo 'a"},
        {"words": [1]},
        {"words": []},
        {"url": "https://user:SECRET@a.com"},
        {"host": 5},
        {"host": {"a": "b"}},
        {"nobody_declared": 1},
        {"__entity": {"type": "Agent", "id": "admin"}},
    ],
)
def test_arguments_that_are_ambiguous_are_refused_without_their_values(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=f"`{name}") as caught:
        tool().resolve(arguments)
    assert "SECRET" not in str(caught.value)


@given(
    st.dictionaries(
        st.sampled_from(sorted(SCHEMA["properties"])),
        st.text() | st.lists(st.text(), max_size=2) | st.integers() | st.none(),
    )
)
def test_any_arguments_give_a_resource_or_one_error(arguments):
    try:
        found = TOOL.resolve(arguments)
    except ArgumentError:
        return
    assert canonical(dict(found.attributes))


TOOL = tool()


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"definition_sha256": "00" * 32}, "definition_sha256"),
        ({"definition_sha256": ""}, "definition_sha256"),
        ({"definition": []}, "definition"),
        ({"definition": {"name": "run"}}, "definition/inputSchema"),
        ({"definition": definition(name="other")}, "definition/name"),
        (
            {"definition": definition(inputSchema={"type": "object", "properties": {"a": {"$ref": "http://x/"}}})},
            "definition/inputSchema/properties/a/$ref",
        ),
        ({"access": "admin"}, "access"),
        ({"access": None}, "access"),
        ({"bulk": 1}, "bulk"),
        ({"egress": "false"}, "egress"),
        ({"open": None}, "open"),
        ({"outage": "allow"}, "outage"),
        ({"data_classes": "pii"}, "data_classes"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"labels": ["a b"]}, "labels/0"),
        ({"price_microusd": -1}, "price_microusd"),
        ({"price_microusd": True}, "price_microusd"),
        ({"price_microusd": 1.5}, "price_microusd"),
        ({"typo": 1}, "typo"),
        ({"resource": {"type": "A b"}}, "resource/type"),
        ({"resource": {"id": "nobody"}}, "resource/id"),
        ({"resource": {"ID": "files"}}, "resource/ID"),
        ({"arguments": {"nobody": {"kind": "path"}}}, "arguments/nobody"),
        ({"arguments": {"files": {}}}, "arguments/files/kind"),
        ({"arguments": {"files": {"kind": "pathh"}}}, "arguments/files/kind"),
        ({"arguments": {"files": {"kind": "path", "base": "repo_path"}}}, "arguments/files/base"),
        ({"arguments": {"files": {"kind": "path", "base": "files"}}}, "arguments/files/base"),
        ({"arguments": {"files": {"kind": "host", "base": "repo_path"}}}, "arguments/files/base"),
    ],
)
def test_a_fault_is_named_by_file_line_and_pointer(members, where):
    with pytest.raises(RegistryError) as caught:
        registry(**members)
    assert str(caught.value).startswith(f"`tools.json:1`: `/tools/box~1run/{where}` ")


def test_a_fault_is_on_the_line_that_an_author_would_change():
    text = json.dumps({"tools": {"box/run": entry(outage="warn", bulk=True)}}, indent=1)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if '"outage"' in line)
    with pytest.raises(RegistryError, match=f"^`tools.json:{line}`: `/tools/box~1run/outage` must be `deny`"):
        Registry.parse(text.encode())


@pytest.mark.parametrize("name", ["run", "/run", "box/", "box /run", "box/ru\nn", "b\u00f6x/run", "box//run", ""])
def test_a_tool_without_a_proper_name_is_refused(name):
    with pytest.raises(RegistryError):
        registry(name)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"tools":[]}', b'{"tools":{"a/b":1}}', b'{"tools":{},"x":1}', b'{"tools":{},"tools":{}}'],
)
def test_a_file_that_is_no_registry_is_refused(data):
    with pytest.raises(RegistryError):
        Registry.parse(data)


@pytest.mark.parametrize("mark", [{"access": "write"}, {"bulk": True}, {"egress": True}, {"data_classes": ["pii"]}])
def test_a_tool_that_can_do_harm_cannot_be_let_through_in_an_outage(mark):
    assert not tool(outage="warn").dangerous
    with pytest.raises(RegistryError, match="/outage"):
        tool(outage="warn", **mark)


@pytest.mark.parametrize(
    "changed",
    [
        {"description": "Runs something else"},
        {"title": "Run"},
        {"annotations": {"readOnlyHint": True}},
        {"outputSchema": {"type": "object"}},
        {"execution": {"taskSupport": "optional"}},
        {"inputSchema": {**SCHEMA, "required": ["message"]}},
    ],
)
def test_any_change_of_a_definition_is_another_definition(changed):
    assert definition_sha256(definition(**changed)) != definition_sha256(definition())


def test_looks_and_transport_do_not_change_a_definition():
    assert definition_sha256(definition(icons=[{"src": "x"}], _meta={"a": 1})) == definition_sha256(definition())


async def test_the_definitions_of_a_published_server_are_served():
    """Closed, each takes what its own schema asks for and nothing else."""
    listed = await create_server(None).list_tools()
    definitions = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in listed]
    assert len(definitions) >= 12
    entries = {
        f"git/{one['name']}": {**entry(definition=one), "arguments": {"repo_path": {"kind": "path"}}}
        for one in definitions
    }
    found = Registry.parse(json.dumps({"tools": entries}).encode())
    status = found.tools["git/git_status"]
    assert status.resolve({"repo_path": "/srv/repo/"}).attributes == {"repo_path": "/srv/repo"}
    with pytest.raises(ArgumentError, match="unknown argument `nobody_declared`"):
        status.resolve({"repo_path": "/srv/repo", "nobody_declared": 1})
    for one in found.tools.values():
        assert one.input_schema["unevaluatedProperties"] is False
