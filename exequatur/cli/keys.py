"""`exequatur keys`: make keys, and show which are trusted.

Rules: a private key is readable by its owner alone, and never written over another; what others need is in a file, and
a folder, of its own.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from exequatur.cli.console import Exit, emit, fail
from exequatur.cli.key_listing import PURPOSES, listing, picture
from exequatur.key_folder import KeyFolder, private_keys_hint
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import ALGORITHMS, generate, load_log_key, parse_key_set
from exequatur.trust.note import LogKey

app = typer.Typer(no_args_is_help=True)

LOG_ALGORITHM: Final = "Ed25519"
UNNAMED: Final = ("RS256", "ES256", "ES384", "ES512", LOG_ALGORITHM)
"""What a file's name does not have to say: the usual one, and those that the key itself tells."""

_KID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@app.command("generate")
def generate_key(
    out: Annotated[Path, typer.Option(help="the folder to write to; made if it is not there")],
    kid: Annotated[str, typer.Option(help="the key's name, which signatures carry: letters, digits, `_`, `-`, `.`")],
    alg: Annotated[
        str, typer.Option(help="RS256 to RS512, PS256 to PS512, ES256 to ES512 for bundles; Ed25519 for the ledger")
    ] = "RS256",
    origin: Annotated[str, typer.Option(help="for Ed25519: the log's name in its checkpoints, if not the KID")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Make a key pair: KID.key is yours alone; public/ is what goes to `--keys`, KID.vkey what verifies a log."""
    if kid.rpartition(".")[2] in ALGORITHMS:
        fail(f"`{kid}` ends in the name of an algorithm, which file names have after the KID: take another one")
    if not _KID.fullmatch(kid):
        fail(f"`{kid}` is not a KID: take letters, digits, `_`, `-` and `.`")
    name = kid if alg in UNNAMED else f"{kid}.{alg}"
    try:
        private_pem, public_pem = generate(alg)
        if alg == LOG_ALGORITHM:
            verifier = LogKey.parse(str(LogKey(origin or kid, load_log_key(private_pem).public_key())))
            public_file, public = out / f"{name}.vkey", f"{verifier}\n".encode()
        else:
            parse_key_set({f"{name}.pem": public_pem})  # as whoever verifies will read it
            public_file, public = out / "public" / f"{name}.pem", public_pem
    except TrustError as error:
        fail(str(error))
    if origin and alg != LOG_ALGORITHM:
        fail("`--origin` is for Ed25519 alone: bundles are signed by KID")
    private_file = out / f"{name}.key"
    try:
        public_file.parent.mkdir(parents=True, exist_ok=True)
        _write_pair(private_file, private_pem, public_file, public)
    except FileExistsError as error:
        fail(f"`{error.filename}` is there already: a key is never written over another", Exit.NO)
    except OSError as error:
        fail(f"`{error.filename}` cannot be written: {(error.strerror or str(error)).lower()}")
    value = {"alg": alg, "kid": kid, "private": str(private_file), "public": str(public_file)}
    emit(value, as_json=as_json, render=lambda: _picture(value))


@app.command("show")
def show_keys(
    folder: Annotated[Path, typer.Argument(help="a folder of public keys, with its `keys.json` if it has one")],
    purpose: Annotated[
        str,
        typer.Option(
            help="refuse keys for anything else: `bundle`, `permit`, `checkpoint`; else what `keys.json` says"
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Show a folder's keys: whose, until when, what for, and how many owners must sign. Exit code 1: it is broken."""
    if purpose not in ("", *PURPOSES):
        fail(f"`--purpose` must be one of {', '.join(f'`{name}`' for name in PURPOSES)}")
    if not folder.is_dir():
        fail(f"`{folder}`: it is {'no folder' if folder.exists() else 'not there'}: name a folder of public keys")
    try:
        value = KeyFolder(folder, lambda files: listing(files, purpose, datetime.now(UTC))).read()
    except TrustError as error:
        fail(f"`{folder}`: {error}{private_keys_hint(folder)}", Exit.NO)
    emit(value, as_json=as_json, render=lambda: picture(str(folder), value))


def _picture(value: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("key", style="dim"), Text(f"{value['kid']} ({value['alg']})"))
    table.add_row(Text("private", style="dim"), Text(value["private"], style="bold"), Text("keep it to yourself"))
    table.add_row(Text("public", style="dim"), Text(value["public"], style="bold"), Text("give it to who verifies"))
    return table


def _write_pair(private_file: Path, private_pem: bytes, public_file: Path, public: bytes) -> None:
    """Write both, or neither."""
    _write_new(public_file, public, 0o644)
    try:
        _write_new(private_file, private_pem, 0o600)
    except OSError:
        public_file.unlink(missing_ok=True)
        raise


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, never readable by more than `mode` says."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
