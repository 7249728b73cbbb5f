"""`exequatur session`: open, show and close sessions, as an orchestrator does."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import emit, fail
from exequatur.cli.reach import AsJson, Certificate, Key, Plaintext, Roots, Target, reach

if TYPE_CHECKING:
    from exequatur.client import Session

app = typer.Typer(no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="whose session it is; `default` if not said")]

_SPAN: Final = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command("open")
def open_session(
    agent: Annotated[str, typer.Argument(help="the agent's id in the inventory")],
    *,
    enforcer: Annotated[str, typer.Option(help="the identity of the sidecar that speaks in it, `spiffe://…`")],
    lifetime: Annotated[str, typer.Option(help="how long: `90s`, `30m`, `8h`, `1d`")] = "1h",
    scope: Annotated[list[str] | None, typer.Option(help="`server/tool`, `server/*` or `*`; repeat for more")] = None,
    max_steps: Annotated[int, typer.Option(help="how many actions", min=0)] = 100,
    budget_microusd: Annotated[int, typer.Option(help="how much it may cost; 1,000,000 is one dollar", min=0)] = 0,
    purpose: Annotated[str, typer.Option(help="what it is for, in a word that policy knows")] = "",
    task: Annotated[str, typer.Option(help="what it is for, in your words")] = "",
    domain: Annotated[list[str] | None, typer.Option(help="a data domain that it is about; repeat for more")] = None,
    subject: Annotated[str, typer.Option(help="on whose behalf")] = "",
    instance: Annotated[str, typer.Option(help="which instance of the agent, where there are several")] = "",
    tenant: Tenant = "",
    target: Target = "",
    certificate: Certificate = None,
    key: Key = None,
    roots: Roots = None,
    unsafe_plaintext: Plaintext = False,
    as_json: AsJson = False,
) -> None:
    """Open a session; without a scope it may do nothing."""
    span = _SPAN.fullmatch(lifetime)
    if span is None:
        fail("`--lifetime` must be a number with its unit: `90s`, `30m`, `8h`, `1d`")
    with reach(target, certificate=certificate, key=key, roots=roots, unsafe_plaintext=unsafe_plaintext) as client:
        from exequatur.client import Intent  # noqa: PLC0415 - imported by `reach` already

        session = client.open_session(
            agent,
            enforcer,
            lifetime=timedelta(**{_UNITS[span["unit"]]: int(span["number"])}),
            scope=scope or [],
            max_steps=max_steps,
            budget_microusd=budget_microusd,
            intent=Intent(purpose, task, tuple(domain or ())),
            subject=subject,
            instance=instance,
            tenant=tenant,
        )
    value = _value(session)
    emit(value, as_json=as_json, render=lambda: _picture(value))


@app.command()
def show(
    session_id: Annotated[str, typer.Argument(metavar="[SESSION]", help="its id; or name agent and instance")] = "",
    *,
    agent: Annotated[str, typer.Option(help="the agent whose open session at this enforcer is meant")] = "",
    instance: Annotated[str, typer.Option(help="which instance of the agent")] = "",
    tenant: Tenant = "",
    target: Target = "",
    certificate: Certificate = None,
    key: Key = None,
    roots: Roots = None,
    unsafe_plaintext: Plaintext = False,
    as_json: AsJson = False,
) -> None:
    """Show a session, its state, and the tools in its scope."""
    if not session_id and not agent:
        fail("name a session by its id, or by `--agent`")
    with reach(target, certificate=certificate, key=key, roots=roots, unsafe_plaintext=unsafe_plaintext) as client:
        found = client.get_session(session_id, agent=agent, instance=instance, tenant=tenant)
    value = _value(found.session) | {"tools": {name: pin.hex() for name, pin in found.tools.items()}}
    emit(value, as_json=as_json, render=lambda: _picture(value))


@app.command()
def close(
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="its id")],
    *,
    tenant: Tenant = "",
    target: Target = "",
    certificate: Certificate = None,
    key: Key = None,
    roots: Roots = None,
    unsafe_plaintext: Plaintext = False,
    as_json: AsJson = False,
) -> None:
    """End a session; what it reserved is charged when it is due."""
    with reach(target, certificate=certificate, key=key, roots=roots, unsafe_plaintext=unsafe_plaintext) as client:
        session = client.close_session(session_id, tenant=tenant)
    value = _value(session)
    emit(value, as_json=as_json, render=lambda: _picture(value))


def _value(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "tenant": session.tenant,
        "agent": session.agent,
        "instance": session.instance,
        "enforcer": session.enforcer,
        "subject": session.subject,
        "delegation_chain": list(session.delegation_chain),
        "intent": {
            "purpose": session.intent.purpose,
            "task": session.intent.task,
            "domains": list(session.intent.domains),
        },
        "scope": list(session.scope),
        "labels": list(session.labels),
        "steps": session.steps,
        "max_steps": session.max_steps,
        "budget_microusd": session.budget_microusd,
        "spent_microusd": session.spent_microusd,
        "reserved_microusd": session.reserved_microusd,
        "opened_at": _time(session.opened_at),
        "expires_at": _time(session.expires_at),
        "closed_at": _time(session.closed_at),
    }


def _picture(value: dict[str, Any]) -> RenderableType:
    intent = value["intent"]
    left = value["budget_microusd"] - value["spent_microusd"] - value["reserved_microusd"]
    facts = {
        "agent": " ".join(filter(None, (value["agent"], value["instance"]))),
        "enforcer": value["enforcer"],
        "subject": value["subject"],
        "purpose": ": ".join(filter(None, (intent["purpose"], intent["task"]))),
        "domains": ", ".join(intent["domains"]),
        "scope": ", ".join(value["scope"]) or "nothing",
        "labels": ", ".join(value["labels"]),
        "steps": f"{value['steps']} of {value['max_steps']}",
        "budget": f"{left:,} of {value['budget_microusd']:,} micro-USD left, {value['reserved_microusd']:,} reserved",
        "expires": value["expires_at"] or "",
        "closed": value["closed_at"] or "",
        "tools": ", ".join(value.get("tools", ())),
    }
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        if fact:
            grid.add_row(Text(name, style="dim"), Text(fact, overflow="fold"))
    title = Text(f"session {value['id']}", style="bold")
    style = "dim" if value["closed_at"] else "green"
    return Panel(grid, title=title, title_align="left", border_style=style, box=box.ROUNDED, expand=False)


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")
