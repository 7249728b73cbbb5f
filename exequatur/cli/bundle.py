"""`exequatur bundle`: start, build, sign, verify and inspect policy bundles.

Rules: the verbs' words stand here, their work in `bundling.py`, which needs the engines and is imported when it runs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from exequatur.cli.console import Exit, fail

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="for machines")]
Out = Annotated[Path, typer.Option("-o", "--out", help="the file to write")]
Bundle = Annotated[Path, typer.Argument(help="a bundle, such as `mine.tar.gz`")]
Keys = Annotated[Path, typer.Option(help="the folder of public keys that may sign, `KID.pem` each")]
Tenant = Annotated[str, typer.Option(help="whose bundle it is")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="the folder to write to; it must be empty or not there")]) -> None:
    """Write a small working start: Cedar, Rego, tools, agents and cases."""
    work().init(folder)


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="the folder of sources")], out: Out, as_json: AsJson = False
) -> None:
    """Check everything, compile, run the cases, and pack it; the same sources give the same bytes."""
    work().build(folder, out, as_json=as_json)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="what `build` wrote")],
    *,
    key: Annotated[Path, typer.Option(help="your private key, `KID.key` or `KID.ALG.key`")],
    kid: Annotated[str, typer.Option(help="the key's name, by which others find your public key")],
    sequence: Annotated[int, typer.Option(help="one more than the last: nothing older is ever served again", min=1)],
    expires: Annotated[str, typer.Option(help="`30d`, `12h`, or a time such as `2027-01-01T00:00:00Z`")],
    out: Out,
    not_before: Annotated[str, typer.Option(help="not valid before this time, or this long from now")] = "",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Build it again to see that it is what its sources say, and sign it."""
    work().sign(
        bundle,
        key,
        kid,
        sequence=sequence,
        expires=expires,
        not_before=not_before,
        tenant=tenant,
        out=out,
        as_json=as_json,
    )


@app.command()
def verify(
    bundle: Bundle,
    keys: Keys,
    tenant: Tenant = "default",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build it again and compare; needs `opa`")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a decision point would trust it now; if not, exactly what is wrong. Exit code 1 is no."""
    work().verify(bundle, keys, tenant=tenant, rebuild=rebuild, as_json=as_json)


@app.command()
def inspect(
    bundle: Bundle,
    keys: Annotated[Path | None, typer.Option(help="verify it too, by this folder of public keys")] = None,
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Show what is inside: files with hashes, engines, tools, agents, policies, sequence, expiry."""
    work().inspect(bundle, keys, tenant=tenant, as_json=as_json)


def work(name: str = "bundling") -> ModuleType:
    """Import the verbs' work, which needs the engines."""
    try:
        return importlib.import_module(f"exequatur.cli.{name}")
    except ModuleNotFoundError as error:
        fail(f"this verb needs `{error.name}`: pip install 'exequatur[pdp]'", Exit.CONFIG)
