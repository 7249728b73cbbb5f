"""The command for people: one file a group, assembled here."""

from __future__ import annotations

import typer

from exequatur.cli import audit, bundle, keys, policy, session
from exequatur.cli.authorize import authorize
from exequatur.cli.demo import demo

app = typer.Typer(
    name="exequatur",
    help="Let it be executed: policy decisions for AI agents, binding and on record.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(bundle.app, name="bundle", help="Build, compare, endorse, sign, verify and ship policy bundles.")
app.add_typer(policy.app, name="policy", help="Check, test, try, explain and format policy.")
app.add_typer(keys.app, name="keys", help="Make keys, and show which are trusted.")
app.add_typer(session.app, name="session", help="Open, show and close sessions.")
app.add_typer(audit.app, name="audit", help="Read and verify the audit log.")
app.command()(authorize)
app.command()(demo)

# Dispatched in `exequatur.__main__` before anything heavy is imported; named here so that `--help` knows them.
_DAEMONS = {
    "pdp": "Run the decision point: `pdp serve`, `pdp config`.",
    "ledger": "Run the audit ledger: `ledger serve`, `ledger config`.",
    "sidecar": "Guard an agent: `sidecar run`, `sidecar mcp`, `sidecar config`.",
}
for _name, _help in _DAEMONS.items():

    @app.command(_name, help=_help)
    def _daemon(verb: str = typer.Argument(help="what to do; `--help` after it lists its settings")) -> None:
        typer.echo(f"error: `{verb}` is not a verb of this daemon", err=True)
        raise typer.Exit(2)
