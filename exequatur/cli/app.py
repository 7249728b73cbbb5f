"""The command for people: one file a group, assembled here, and only the group that is called where one is."""

from __future__ import annotations

from typing import Any, Final

import typer

from exequatur.importing import imported

_GROUPS: Final = {
    "bundle": "Build, compare, endorse, sign, verify and ship policy bundles.",
    "policy": "Check, test, try, explain and format policy.",
    "keys": "Make keys, and show which are trusted.",
    "session": "Open, show and close sessions.",
    "audit": "Read and verify the audit log.",
}
"""Each has a module of its name, with an `app`."""

_VERBS: Final = ("authorize", "demo")
"""Each has a module with a function of its name."""

# Dispatched in `exequatur.__main__` before anything heavy is imported; named here so that `--help` knows them.
_DAEMONS: Final = {
    "pdp": "Run the decision point: `pdp serve`, `pdp config`.",
    "ledger": "Run the audit ledger: `ledger serve`, `ledger config`.",
    "injector": "Put the sidecar into agents' pods: `injector serve`, `injector config`.",
    "sidecar": "Guard an agent: `sidecar run`, `sidecar mcp`, `sidecar fence`, `sidecar config`.",
}


def command(called: str = "") -> typer.Typer:
    """Assemble the command; with `called` only that group or verb, where it is one: the others take long to import."""
    app = typer.Typer(
        name="exequatur",
        help="Let it be executed: policy decisions for AI agents, binding and on record.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    alone = called in _GROUPS or called in _VERBS
    for name, about in _GROUPS.items():
        if not alone or name == called:
            app.add_typer(_module(name).app, name=name, help=about)
    for name in _VERBS:
        if not alone or name == called:
            app.command()(getattr(_module(name), name))
    for name, about in _DAEMONS.items():
        app.command(name, help=about)(_daemon)
    return app


def _module(name: str) -> Any:
    return imported(f"exequatur.cli.{name}")


def _daemon(verb: str = typer.Argument(help="what to do; `--help` after it lists its settings")) -> None:
    typer.echo(f"error: `{verb}` is not a verb of this daemon", err=True)
    raise typer.Exit(2)
