"""`exequatur authorize`: one action, from a file, judged here or by a running decision point.

Rules: exit code 0 is a go-ahead (ALLOW, WARN), 1 is none; judging here reserves nothing and records nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from exequatur.action import Action, ActionError, parse_envelope
from exequatur.cli.bundle import work
from exequatur.cli.console import EFFECT_STYLES, Exit, emit, errors, fail
from exequatur.cli.reach import AsJson, Certificate, Key, Plaintext, Roots, Target, reach

if TYPE_CHECKING:
    from exequatur.values import Decision

_ENVELOPE_BYTES: Final = 2**20


def authorize(
    envelope: Annotated[
        Path, typer.Argument(metavar="FILE|-", help='an action as JSON: {"agent", "tool", "arguments"}; - is stdin')
    ],
    *,
    bundle: Annotated[Path | None, typer.Option(help="judge here, by this bundle")] = None,
    keys: Annotated[Path | None, typer.Option(help="with --bundle: the public keys that may sign it")] = None,
    session_file: Annotated[
        Path | None, typer.Option(help="with --bundle: the session, as the `session` of a case, in JSON")
    ] = None,
    tenant: Annotated[str, typer.Option(help="with --bundle: whose bundle it is")] = "default",
    unsafe_unsigned: Annotated[
        bool, typer.Option("--unsafe-unsigned", help="with --bundle: judge by what nobody signed")
    ] = False,
    target: Target = "",
    certificate: Certificate = None,
    key: Key = None,
    roots: Roots = None,
    unsafe_plaintext: Plaintext = False,
    as_json: AsJson = False,
) -> None:
    """Ask whether one action may run: exit code 0 is yes, 1 is no."""
    action = read_envelope(envelope)
    if bundle is not None:
        if unsafe_unsigned == (keys is not None):
            fail("`--bundle` needs `--keys`, the folder of those who may sign it, or `--unsafe-unsigned`, not both")
        if unsafe_unsigned:
            errors.print("[bold yellow]unsafe[/]: nobody signed this policy, and every effect is at least WARN")
        value = work("judging").judge_here(action, bundle, keys, session_file, tenant=tenant)
    elif keys is not None or session_file is not None or unsafe_unsigned:
        fail("`--keys`, `--session-file` and `--unsafe-unsigned` go with `--bundle`")
    elif not target:
        fail("say who judges: `--bundle FILE` to judge here, or `--target` for a running decision point")
    else:
        with reach(target, certificate=certificate, key=key, roots=roots, unsafe_plaintext=unsafe_plaintext) as client:
            value = decision_value(_ask(client, action))
    emit(value, as_json=as_json, render=lambda: _picture(action, value))
    raise typer.Exit(Exit.OK if value["effect"] in ("allow", "warn") and not value["repeated"] else Exit.NO)


def _ask(client: Any, action: Action) -> Decision:
    from exequatur.values import Claims  # noqa: PLC0415 - imported by the client already

    claims = action.claims
    decision: Decision = client.authorize(
        action.tool,
        action.arguments_json,
        session=action.session,
        agent=action.agent,
        instance=action.instance,
        tenant=action.tenant,
        claims=Claims(
            claims.reason, claims.cost_estimate_microusd, claims.tokens, claims.model, tuple(claims.provenance)
        ),
        definition_sha256=action.definition_sha256,
        idempotency_key=action.idempotency_key,
    )
    return decision


def decision_value(decision: Decision) -> dict[str, Any]:
    """Give a decision as JSON."""
    return {
        "decision_id": decision.decision_id,
        "effect": decision.effect.name.lower(),
        "reasons": [
            {
                "kind": reason.kind.name.lower(),
                "policy": reason.policy,
                "text": reason.text,
                "engine": reason.engine,
                "owasp": reason.owasp,
            }
            for reason in decision.reasons
        ],
        "obligations": [
            {"id": item.id, "parameters": json.loads(item.parameters_json)} for item in decision.obligations
        ],
        "approvers": list(decision.approvers),
        "errors": list(decision.errors),
        "action_digest": decision.action_digest.hex(),
        "bundle": decision.bundle_sha256.hex(),
        "sequence": decision.bundle_sequence,
        "session": decision.session,
        "reserved_microusd": decision.reserved_microusd,
        "latency_us": decision.latency_us,
        "repeated": decision.repeated_answer,
    }


def read_envelope(path: Path) -> Action:
    """Read an action from a file, or from standard input where the path is `-`; exits where it is none."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_ENVELOPE_BYTES)
        else:
            with path.open("rb") as file:
                data = file.read(_ENVELOPE_BYTES)
        return parse_envelope(data)
    except OSError as error:
        fail(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    except ActionError as error:
        fail(f"`{path}`: {error}")


def _picture(action: Action, value: dict[str, Any]) -> RenderableType:
    reasons = Table.grid(padding=(0, 2))
    for reason in value["reasons"]:
        policy = Text.assemble((reason["policy"] or reason["kind"].replace("_", " "), "bold"))
        reasons.add_row(policy, Text(reason["text"], overflow="fold"), Text(reason["owasp"], style="dim"))
    facts = Table.grid(padding=(0, 2))
    rows = {
        "approvers": ", ".join(value["approvers"]),
        "obligations": ", ".join(item["id"] for item in value["obligations"]),
        "errors": "\n".join(value["errors"]),
        "reserved": f"{value['reserved_microusd']:,} micro-USD" if value["reserved_microusd"] else "",
        "repeated": "an answer that was given before: no second go-ahead" if value["repeated"] else "",
        "digest": value["action_digest"],
        "bundle": f"{value['bundle'][:16]}…  sequence {value['sequence']}",
        "judged in": f"{value['latency_us']:,} µs" if value["latency_us"] else "",
    }
    for name, fact in rows.items():
        if fact:
            facts.add_row(Text(name, style="dim"), Text(fact, overflow="fold"))
    style = EFFECT_STYLES.get(value["effect"], "red")
    title = Text(value["effect"].upper().replace("_", " "), style=f"bold {style}")
    what = Text.assemble((action.tool, "bold"), (f"  by {action.agent}", "dim"))
    return Panel(
        Group(what, Text(), reasons, Text(), facts),
        title=title,
        title_align="left",
        border_style=style,
        box=box.ROUNDED,
        expand=False,
    )
