"""How a verb reaches a running decision point: its options, its errors.

Rules: plain text over TCP has to be asked for; a service that does not answer is exit code 69, one that refuses the
call 2 or 1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from exequatur.cli.console import Exit, fail

if TYPE_CHECKING:
    from exequatur.client import Client

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would log of a handshake that failed, we say in one line

Target = Annotated[
    str,
    typer.Option(
        help="a decision point `HOST:PORT`, or a sidecar `unix:PATH`", envvar="EXEQUATUR_TARGET", show_default=False
    ),
]
Certificate = Annotated[Path | None, typer.Option("--tls-certificate", help="our certificate chain, PEM")]
Key = Annotated[Path | None, typer.Option("--tls-key", help="its private key, PEM")]
Roots = Annotated[Path | None, typer.Option("--tls-roots", help="the roots that sign the service, PEM")]
Plaintext = Annotated[bool, typer.Option("--unsafe-plaintext", help="plain text over TCP; nobody is proved")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]

_CALLERS: Final = ("INVALID_ARGUMENT", "UNAUTHENTICATED", "UNIMPLEMENTED")
_ANSWERS: Final = ("NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "PERMISSION_DENIED")


@contextlib.contextmanager
def reach(
    target: str,
    *,
    certificate: Path | None,
    key: Path | None,
    roots: Path | None,
    unsafe_plaintext: bool,
    timeout_s: float | None = None,
) -> Iterator[Client]:
    """Give a client, and turn its errors into one line and an exit code; `timeout_s` None is the client's own."""
    from exequatur.client import DEADLINE_S, CallError, Client, Tls  # noqa: PLC0415 - gRPC takes longer to import than most verbs run

    if not target:
        fail("`--target` is missing: a decision point `HOST:PORT`, or a sidecar `unix:PATH`")
    files = (certificate, key, roots)
    if any(files) and (certificate is None or key is None or roots is None):
        fail("`--tls-certificate`, `--tls-key` and `--tls-roots` go together")
    tls = Tls(certificate, key, roots) if certificate and key and roots else None
    try:
        client = Client(target, tls=tls, unsafe_plaintext=unsafe_plaintext, timeout_s=timeout_s or DEADLINE_S)
    except OSError as error:
        fail(f"`{error.filename}`: {(error.strerror or str(error)).lower()}")
    except ValueError:
        fail(f"`{target}` needs TLS files: plain text has to be asked for with `--unsafe-plaintext`")
    try:
        with client:
            yield client
    except CallError as error:
        code = Exit.USAGE if error.code in _CALLERS else Exit.NO if error.code in _ANSWERS else Exit.UNREACHABLE
        unreachable = error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        text = f"`{target}` does not answer" if unreachable else f"`{target}`: {error} ({error.code.lower()})"
        fail(text, code)
    except (TypeError, ValueError) as error:
        fail(str(error))
