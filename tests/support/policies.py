"""A small registry, inventory and facts for tests of engines, and `opa` to compile Rego with."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from exequatur.action import Claims
from exequatur.registry import Registry, definition_sha256
from exequatur.trust.bundle import VerifiedBundle
from pdp.engine.document import Facts
from pdp.engine.inventory import Agents
from pdp.model import Intent, Session

NOW = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
"""A Monday."""


def tool(server: str, name: str, properties: dict[str, Any], required: list[str], **entry: Any) -> dict[str, Any]:
    """Give a registry entry with its definition pinned."""
    definition = {
        "name": name,
        "description": f"{name} of {server}",
        "inputSchema": {"type": "object", "properties": properties, "required": required},
    }
    return {"definition": definition, "definition_sha256": definition_sha256(definition).hex(), **entry}


STRING = {"type": "string"}
REPOSITORY = {"resource": {"type": "Repository", "id": "repo_path"}, "arguments": {"repo_path": {"kind": "path"}}}
TOOLS: dict[str, Any] = {
    "git/log": tool(
        "git",
        "log",
        {"repo_path": STRING, "max_count": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 10}},
        ["repo_path"],
        access="read",
        outage="warn",
        **REPOSITORY,
    ),
    "git/commit": tool(
        "git",
        "commit",
        {"repo_path": STRING, "message": STRING},
        ["repo_path", "message"],
        access="write",
        **REPOSITORY,
    ),
    "git/add": tool(
        "git",
        "add",
        {"repo_path": STRING, "files": {"type": "array", "items": STRING}},
        ["repo_path", "files"],
        access="write",
        resource={"type": "Repository", "id": "repo_path"},
        arguments={"repo_path": {"kind": "path"}, "files": {"kind": "path", "base": "repo_path"}},
    ),
    "shell/run": tool(
        "shell",
        "run",
        {"command": STRING},
        ["command"],
        access="write",
        resource={"type": "Shell"},
        arguments={"command": {"kind": "command"}},
    ),
    "crm/search": tool(
        "crm",
        "search",
        {
            "query": STRING,
            "limit": {"type": "integer"},
            "score": {"type": "number"},
            "filter": {"type": "object", "properties": {"country": STRING, "any": {}}},
            "tags": {"type": "array", "items": STRING},
            "mixed": {"type": ["string", "integer"]},
        },
        ["query"],
        access="read",
        bulk=True,
        data_classes=["pii"],
        resource={"type": "Customers"},
    ),
}
AGENTS: dict[str, Any] = {
    "coder": {
        "owner": "platform@example.com",
        "version": "1",
        "teams": ["engineering"],
        "environment": "dev",
        "domains": ["code"],
        "enforcers": ["spiffe://example.com/sidecar/coder"],
    },
    "clerk": {"owner": "sales@example.com", "teams": ["sales"], "enforcers": []},
}


def as_json(value: Any) -> bytes:
    """Write JSON."""
    return json.dumps(value).encode()


def registry(tools: dict[str, Any] | None = None) -> Registry:
    """Give the registry."""
    return Registry.parse(as_json({"tools": tools or TOOLS}))


def agents() -> Agents:
    """Give the inventory."""
    return Agents.parse(as_json({"agents": AGENTS}))


def session(**changes: Any) -> Session:
    """Give an open session of `coder`, an hour old."""
    fields: dict[str, Any] = {
        "id": "s1",
        "tenant": "default",
        "agent": "coder",
        "instance": "i1",
        "enforcer": "spiffe://example.com/sidecar/coder",
        "opened_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=1),
        "max_steps": 100,
        "budget_microusd": 1_000_000,
        "subject": "anna@example.com",
        "intent": Intent("fix a bug", "T-1", ("code",)),
        "calls": {"git/log": 2},
        "steps": 2,
        **changes,
    }
    return Session(**fields)


def facts(
    name: str, arguments: dict[str, Any], *, known: Registry | None = None, agent: str = "coder", **changes: Any
) -> Facts:
    """Give the facts of one call; `changes` go to the session, but for `claims`, `now` and `door`."""
    called = (known or registry()).tools[name]
    special = {key: changes.pop(key) for key in ("claims", "now", "door") if key in changes}
    return Facts(
        agent=agents()[agent],
        session=session(agent=agent, **changes),
        tool=called,
        resource=called.resolve(arguments),
        input=arguments,
        claims=special.get("claims", Claims()),
        now=special.get("now", NOW),
        door=special.get("door", "cooperative"),
    )


def bundle(files: dict[str, bytes], *, signed: bool = True) -> VerifiedBundle:
    """Give a bundle as verification would, with the registry and the inventory in it."""
    whole = {"tools.json": as_json({"tools": TOOLS}), "agents.json": as_json({"agents": AGENTS}), **files}
    return VerifiedBundle(
        files=whole,
        digest=b"\1" * 32,
        sequence=7,
        expires_at=NOW + timedelta(days=1),
        not_before=None,
        tenant="default",
        kids=("dev",),
        owners=("dev",),
        revision="r1",
        signed=signed,
    )


def manifest(*engines: tuple[str, str]) -> bytes:
    """Give `exequatur.json` for pairs of engine and role."""
    listed = [
        {"engine": engine, "role": role, **({"entrypoint": "exequatur/decision"} if engine != "cedar" else {})}
        for engine, role in engines
    ]
    return as_json({"document_version": 1, "name": "test", "engines": listed})


def opa() -> str:
    """Find `opa`, or fail with what to do."""
    usual = Path.home() / ".cache/exequatur/bin/opa-1.22.0"
    found = os.environ.get("EXEQUATUR_OPA") or shutil.which("opa") or (str(usual) if usual.is_file() else None)
    if found is None:
        raise AssertionError("this test compiles Rego and needs `opa`: run it by `make test`, or set EXEQUATUR_OPA")
    return found


@functools.cache
def rego(source: str, data: str = "{}", entrypoint: str = "exequatur/decision") -> bytes:
    """Compile a Rego module with `opa`; gives `policy.wasm`."""
    return compiled({"policy.rego": source, "data.json": data}, entrypoint)


def compiled(files: dict[str, str], *entrypoints: str) -> bytes:
    """Compile files of Rego and data with `opa`; gives `policy.wasm`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name) / "in"
        work.mkdir()
        for file, text in files.items():
            (work / file).write_text(text)
        entries = [word for entrypoint in entrypoints for word in ("-e", entrypoint)]
        command = [opa(), "build", "-t", "wasm", *entries, "-o", "../out.tar.gz", "-b", "."]
        built = subprocess.run(command, cwd=work, check=False, capture_output=True, text=True, timeout=60)
        assert built.returncode == 0, built.stderr + built.stdout
        with tarfile.open(Path(name) / "out.tar.gz") as archive:
            member = archive.extractfile("/policy.wasm")
            assert member is not None
            return member.read()
