"""The catalogue is the operator's word: what could be misread in it, or misused by a pod, keeps the injector from starting."""

from __future__ import annotations

import json

import pytest

from admission import CATALOGUE, UID_RULES, catalogue, changed
from injector.catalogue import CatalogueError, read_catalogue

DOOR = "agents__coder__doors__git"


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        ("version", 2, "version"),
        ("somethingNew", 1, "somethingNew"),
        ("agents__coder__somethingNew", 1, "agents.coder.somethingNew"),
        ("agents__coder__serviceAccounts", [], "agents.coder.serviceAccounts"),
        ("agents__coder__serviceAccounts", ["coder"], "agents.coder.serviceAccounts[0]"),
        ("agents__coder__serviceAccounts", ["team-a/*"], "agents.coder.serviceAccounts[0]"),
        ("agents__coder__sessions", ["instance:a,door=grpc"], "agents.coder.sessions[0]"),
        ("agents__coder__sessions", [], "agents.coder.sessions"),
        ("agents__coder__tenant", "a,uid=0", "agents.coder.tenant"),
        ("agents__coder__doors", {}, "agents.coder.doors"),
        ("agents__coder__doors", {"grpc": {"kind": "mcp", "command": ["x"]}}, "agents.coder"),
        ("agents__coder__doors", {"web": {"kind": "grpc"}}, "agents.coder"),
        ("agents__coder__doors", {"a" * 21: {"kind": "mcp", "command": ["x"]}}, "agents.coder.doors"),
        ("agents__coder__serviceAccountToken", "false", "agents.coder.serviceAccountToken"),
        ("agents", {"a,b": CATALOGUE["agents"]["coder"]}, "agents"),
        (f"{DOOR}__enforced", "yes", f"{DOOR}.enforced"),
        (f"{DOOR}__command", [], f"{DOOR}.command"),
        (f"{DOOR}__mounts", {"workspace": "/usr/bin"}, f"{DOOR}.mounts.workspace"),
        (f"{DOOR}__mounts", {"workspace": "/workspace/../usr/bin"}, f"{DOOR}.mounts.workspace"),
        (f"{DOOR}__mounts", {"workspace": "workspace"}, f"{DOOR}.mounts.workspace"),
        (f"{DOOR}__mounts", {"exequatur-identity": "/workspace"}, f"{DOOR}.mounts"),
        (f"{DOOR}__envFromSecret", "exequatur-sidecar-coder", f"{DOOR}.envFromSecret"),
        (f"{DOOR}__mounts", ["workspace"], f"{DOOR}.mounts"),
        ("resources__sidecar__limits", {"example.com/device": "1"}, "resources.sidecar.limits"),
        ("pdp", "exequatur-pdp:7070", "pdp"),
        ("pdp", "exequatur-pdp.exequatur.svc", "pdp"),
        ("ledger", "ledger:7071", "ledger"),
        ("image", "two words", "image"),
        ("uidRules", UID_RULES | {"dns": ["dns.example"]}, "uidRules.dns[0]"),
        ("uidRules", UID_RULES | {"agentMay": ["--free-uid"]}, "uidRules.agentMay[0]"),
        ("drainGraceS", 0, "drainGraceS"),
        ("pullSecrets", ["Registry"], "pullSecrets[0]"),
        ("listen", "127.0.0.1", "listen"),
    ],
)
def test_a_wrong_member_is_named(at, value, field):
    wrong = changed(CATALOGUE, **{at: value})
    with pytest.raises(CatalogueError) as error:
        read_catalogue(json.dumps(wrong).encode())
    assert str(error.value).startswith("`" + field.replace("__", "."))


def test_the_door_at_which_the_agent_itself_speaks_has_no_way_to_be_enforced():
    wrong = changed(CATALOGUE, agents__coder__doors__grpc={"kind": "grpc", "enforced": True})
    with pytest.raises(CatalogueError, match=r"^`agents.coder.doors.grpc.enforced`: no such member is known"):
        read_catalogue(json.dumps(wrong).encode())


def test_a_member_twice_is_refused():
    text = json.dumps(CATALOGUE).replace('"trust"', '"pdp": "elsewhere.example:1", "trust"')
    with pytest.raises(CatalogueError, match="`pdp`"):
        read_catalogue(text.encode())


@pytest.mark.parametrize("address", ["10.0.0.1:7070", "[fd00::1]:7070", "pdp.example.org:443"])
def test_addresses_that_no_pod_can_take(address):
    assert catalogue(pdp=address).pdp == address


def test_an_empty_catalogue_knows_nobody():
    assert catalogue(agents={}).agents == {}
