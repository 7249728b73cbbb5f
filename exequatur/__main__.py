"""The one command.

Daemons are dispatched before any heavy import, in Python's isolated mode, so that a file in the working folder cannot
stand in for a module of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from exequatur.importing import INTERRUPTED, imported

DAEMONS: Final[Mapping[tuple[str, ...], tuple[str, str]]] = {
    ("pdp", "serve"): ("pdp.server", "serve"),
    ("pdp", "config"): ("pdp.server", "config"),
    ("pdp", "worker"): ("pdp.serving", "worker"),
    ("pdp", "prove"): ("pdp.bundle.proof", "prove_main"),
    ("ledger", "serve"): ("ledger.server", "serve"),
    ("ledger", "config"): ("ledger.server", "config"),
    ("sidecar", "run"): ("sidecar.server", "serve"),
    ("sidecar", "config"): ("sidecar.server", "config"),
    ("sidecar", "mcp"): ("sidecar.doors.mcp_stdio", "main"),
    ("sidecar", "fence"): ("sidecar.fence", "main"),
    ("injector", "serve"): ("injector.server", "serve"),
    ("injector", "config"): ("injector.server", "config"),
    ("pdp", "--version"): ("exequatur.version", "main"),
    ("ledger", "--version"): ("exequatur.version", "main"),
    ("sidecar", "--version"): ("exequatur.version", "main"),
    ("injector", "--version"): ("exequatur.version", "main"),
    ("--version",): ("exequatur.version", "main"),
}
"""Two words to the module and the function (argv without the two words, to exit code) that runs them."""


def main() -> None:
    """Run the command line in `sys.argv` and exit."""
    target = DAEMONS.get(tuple(sys.argv[1:3]))
    if target is None:
        try:
            imported("exequatur.cli.app").command(*sys.argv[1:2])()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:
            name = f"`{error.filename}`: " if error.filename else ""
            sys.exit(f"error: {name}{(error.strerror or str(error)).lower()}")
        return
    if not sys.flags.isolated:
        os.execv(sys.executable, [sys.executable, "-I", "-m", "exequatur", *sys.argv[1:]])  # noqa: S606
    module, function = target
    if module in ("pdp.server", "pdp.serving"):
        # It serves gRPC and starts workers: gRPC, as it is imported, must learn that no fork of ours goes on in Python.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    run = getattr(imported(module), function)
    try:
        sys.exit(run(sys.argv[3:]))
    except KeyboardInterrupt:  # before it hears signals
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
