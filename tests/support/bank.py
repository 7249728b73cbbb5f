"""A small bundle for end-to-end, fault and bench code: a bank whose agent may look, pay small sums, and not more.

Signed with a key made for the run. `bank/look` costs nothing, `bank/pay` one dollar a call; `bank/count` hands a number
to a Rego loop, where the bundle has the Rego; `bank/strict` meets a forbid that fails. The Rego is built with the real
`opa`; Cedar alone has nothing to build, and is proved in half the time.
"""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from exequatur.registry import definition_sha256
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.trust.bundle import BundleClaims, sign
from exequatur.trust.keys import SigningKey, generate
from pdp.bundle.build import build, find_opa

DOLLAR = 1_000_000
SIDECAR, OTHER = "spiffe://example.org/sidecar/teller", "spiffe://example.org/sidecar/clerk"
STRING, NUMBER = {"type": "string"}, {"type": "integer"}


def _tool(name: str, properties: dict[str, Any], **entry: Any) -> dict[str, Any]:
    required = [key for key in properties if not key.startswith("maybe_")]
    schema = {"type": "object", "properties": properties, "required": required}
    definition = {"name": name, "description": f"{name} at the bank", "inputSchema": schema}
    return {"definition": definition, "definition_sha256": definition_sha256(definition).hex(), **entry}


TOOLS = {
    "bank/look": _tool("look", {"account": STRING}, access="read", outage="warn"),
    "bank/pay": _tool("pay", {"to": STRING, "dollars": NUMBER}, access="write", price_microusd=DOLLAR),
    "bank/close": _tool("close", {"account": STRING}, access="write", bulk=True),
    "bank/count": _tool("count", {"to": NUMBER}, access="read"),
    "bank/strict": _tool("strict", {"sum": NUMBER}, access="read"),
    "bank/gossip": _tool("gossip", {"about": STRING}, access="read", labels=["untrusted_input"]),
}

CEDAR = """
@id("permit.teller")
@reason("tellers work with accounts")
permit (principal in Team::"tellers", action, resource);

@id("forbid.bulk")
@reason("closing accounts is for people")
@owasp("ASI02")
forbid (principal, action in Action::"bulk", resource);

@id("forbid.overflow")
@reason("a sum that cannot be multiplied is not trusted")
forbid (principal, action == Action::"bank/strict", resource)
when { context.input.sum * 9223372036854775807 > 0 };

@id("approve.large")
@reason("more than 100 dollars needs a person")
@effect("require_approval")
forbid (principal, action == Action::"bank/pay", resource)
when { context.input.dollars > 100 };

@id("warn.gossip")
@reason("what was heard should not steer payments")
@effect("warn")
forbid (principal, action == Action::"bank/pay", resource)
when { context.session.labels.contains("untrusted_input") };
"""

REGO = """package exequatur

decision := {"deny": deny} if {
	input.tool.name != ""
}

deny contains {"id": "rego.counted", "reason": "counting ends here"} if {
	input.tool.name == "count"
	count([x | x := numbers.range(1, input.input.to)[_]; x % 2 == 0]) < 0
}

deny contains {"id": "rego.danger", "reason": "no destructive words"} if {
	input.tool.name == "look"
	regex.match("rm\\\\s+-rf", input.input.account)
}
"""

CASES = """
- name: a teller looks
  agent: teller
  tool: bank/look
  arguments: {account: "7"}
  want: {effect: allow, policies: [permit.teller]}
"""


def sources(policies: int = 0, engine: str = "rego") -> dict[str, bytes]:
    """Give the bundle's sources; with `policies`, that many more forbids on other tools than `bank/look`.

    `engine` judges what is written in Rego; `cedar` leaves that out.
    """
    agents = {
        name: {
            "owner": "bank@example.org",
            "version": "1",
            "models": [],
            "teams": ["tellers"],
            "environment": "test",
            "domains": ["money"],
            "enforcers": [identity, UNSAFE_PLAINTEXT],
        }
        for name, identity in (("teller", SIDECAR), ("clerk", OTHER))
    }
    more = "".join(
        f'\n@id("more.{n}")\n@reason("one of many")\nforbid (principal, action == Action::"bank/close", resource)\n'
        f'when {{ context.input.account == "{n}" }};\n'
        for n in range(policies)
    )
    engines = [{"engine": "cedar", "role": "decide"}]
    rego = {}
    if engine != "cedar":
        engines.append({"engine": engine, "role": "restrict", "entrypoint": "exequatur/decision"})
        rego = {"decision.rego": REGO.encode()}
    return {
        "exequatur.json": json.dumps(
            {"document_version": 1, "name": "bank", "engines": engines, "outage": {"max_s": 60}}
        ).encode(),
        "tools.json": json.dumps({"tools": TOOLS}).encode(),
        "agents.json": json.dumps({"agents": agents}).encode(),
        "bank.cedar": (CEDAR + more).encode(),
        **rego,
        "limits.json": b'{"max_steps": 1000000000, "max_budget_microusd": 1000000000000000, "max_lifetime_s": 86400}',
        "data.json": b"{}",
        "cases/bank.yaml": CASES.encode(),
    }


@functools.cache
def signing_key() -> SigningKey:
    """Make the run's one signing key."""
    private, _ = generate("RS256")
    return SigningKey.from_pem("bank.pem", private)


def public_pem() -> bytes:
    """Give its public half."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return signing_key().key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@functools.cache
def files(policies: int = 0, engine: str = "rego") -> dict[str, bytes]:
    """Build once a run, if there is anything to build."""
    if engine == "cedar":
        return sources(policies, engine)
    built = build(sources(policies, engine), find_opa(os.environ))
    assert not built.results.failures, built.results
    return dict(built.files)


def archive(
    sequence: int = 1, *, policies: int = 0, engine: str = "rego", days: float = 1, key: SigningKey | None = None
) -> bytes:
    """Give the signed bundle."""
    claims = BundleClaims(sequence, datetime.now(UTC) + timedelta(days=days))
    return sign(files(policies, engine), key or signing_key(), claims)


def put(folder: Path, sequence: int = 1, **options: Any) -> tuple[Path, Path]:
    """Write bundle and key folder; gives both paths."""
    bundles, keys = folder / "bundles", folder / "keys"
    bundles.mkdir(exist_ok=True)
    keys.mkdir(exist_ok=True)
    (keys / "bank.pem").write_bytes(public_pem())
    (bundles / f"bank-{sequence}.tar.gz").write_bytes(archive(sequence, **options))
    return bundles, keys
