"""What is in a bundle, for people to look at. Nothing here verifies, and nothing that decides may use it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from exequatur.registry import Registry, RegistryError, Tool
from exequatur.trust.archive import read_tar, unpack
from exequatur.trust.canonical import Json, JsonError, parse
from exequatur.trust.endorsing import endorser
from exequatur.trust.errors import TrustError
from exequatur.trust.hashing import SIGNATURES
from pdp.bundle import cases
from pdp.engine import inventory, manifest
from pdp.engine.inventory import Agent, Agents
from pdp.engine.manifest import Manifest
from pdp.engine.reading import BUNDLE_JSON, PolicyError
from pdp.engine.snapshot import TOOLS_FILE
from pdp.engine.statements import Statement, read_statements

_CLAIMS: Final = {
    "sequence": "sequence",
    "exp": "expires_at",
    "nbf": "not_before",
    "tenant": "tenant",
    "scope": "scope",
}


def contents(files: Mapping[str, bytes]) -> dict[str, Any]:
    """List files with their hashes, engines, tools, agents, Cedar policies and cases; raises `PolicyError`."""
    settings = Manifest.parse(files[manifest.FILE]) if manifest.FILE in files else None
    policies = read_statements(files)
    return {
        "name": settings.name if settings else "",
        "engines": [
            {"engine": spec.engine, "role": spec.role.value, "entrypoint": spec.entrypoint}
            for spec in (settings.engines if settings else ())
        ],
        "tools": [_tool(tool) for tool in _registry(files)],
        "agents": [_agent(agent) for agent in _agents(files)],
        "policies": [_policy(statement) for statement in policies],
        "rego_files": sum(name.endswith(".rego") for name in files),
        "cases": len(cases.read(files)) if any(name.startswith(cases.FOLDER) for name in files) else 0,
        "files": [
            {"name": name, "bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
            for name in sorted(files)
        ],
    }


def unverified_claims(data: bytes) -> dict[str, Any]:
    """Give what the signature says of itself, without looking whether it holds; empty where there is none.

    Raises `FormatError` for what is no archive.
    """
    signatures = read_tar(unpack(data)).get(SIGNATURES)
    try:
        token = parse(signatures or b"", BUNDLE_JSON)["signatures"][0]  # type: ignore[index, call-overload]
        header, payload = (_part(part) for part in str(token).split(".")[:2])
    except (JsonError, ValueError, LookupError, TypeError):
        return {}
    endorsements = payload.get("endorsements")
    endorsed = [_endorser(item) for item in endorsements] if isinstance(endorsements, list) else []
    said = {ours: payload[name] for name, ours in _CLAIMS.items() if name in payload}
    return {"kid": header.get("kid"), **said, **({"endorsed_by": endorsed} if endorsed else {})}


def _endorser(token: Json) -> str:
    try:
        return endorser(str(token))
    except TrustError:
        return "?"


def _part(text: str) -> dict[str, Json]:
    value = parse(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), BUNDLE_JSON)
    return value if isinstance(value, dict) else {}


def _registry(files: Mapping[str, bytes]) -> list[Tool]:
    try:
        tools = Registry.parse(files[TOOLS_FILE]).tools if TOOLS_FILE in files else {}
    except RegistryError as error:
        raise PolicyError(str(error)) from None
    return [tools[name] for name in sorted(tools)]


def _agents(files: Mapping[str, bytes]) -> list[Agent]:
    return list(Agents.parse(files[inventory.AGENTS_FILE]).values()) if inventory.AGENTS_FILE in files else []


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.full,
        "groups": list(tool.groups),
        "data_classes": list(tool.data_classes),
        "labels": list(tool.labels),
        "outage": tool.outage,
        "price_microusd": tool.price_microusd,
        "definition_sha256": tool.definition_sha256.hex(),
    }


def _agent(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "owner": agent.owner,
        "version": agent.version,
        "teams": list(agent.teams),
        "environment": agent.environment,
        "enforcers": list(agent.enforcers),
    }


def _policy(statement: Statement) -> dict[str, Any]:
    forbids = "forbid" if statement.soft is None else statement.soft.name.lower()
    return {
        "id": statement.id,
        "effect": "permit" if statement.permits else forbids,
        "where": statement.where.strip("`"),
        "owasp": statement.owasp,
        "reason": statement.reason,
    }
