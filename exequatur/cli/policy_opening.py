"""What the verbs of `exequatur policy` share: opening what they are about, and saying what is wrong with it.

Rules: policy that does not compile is exit code 1, a wrong call 2, a missing tool 64.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from exequatur.cli.console import Exit, errors, fail
from exequatur.trust.errors import TrustError
from pdp.bundle.build import Compiler, OpaError, find_opa, read_folder
from pdp.engine.reading import PolicyError
from pdp.policy.opening import Opened, opened

FAULTS = (PolicyError, OpaError, OSError)
"""What opening and trying policy can raise."""


@contextlib.contextmanager
def opening(path: Path, compiler: Compiler | None = None) -> Iterator[Opened]:
    """Open a folder or a bundle; says that it compiles, to whoever watches. Raises `FAULTS`."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "it is not there: name a folder of sources, or a bundle", str(path))
    with contextlib.ExitStack() as stack:
        with errors.status("compiling"):
            try:
                found = stack.enter_context(opened(path, find_opa(os.environ), compiler))
            except TrustError as error:
                raise PolicyError(f"`{path}`: {error}") from None
        yield found


def sources(folder: Path) -> dict[str, bytes]:
    """Read a folder of sources. Raises `FAULTS`."""
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "it is not there: name a folder of sources", str(folder))
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder: name the folder of sources", str(folder))
    return read_folder(folder)


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except FAULTS as error:
        fail(*said(error))


def said(error: Exception) -> tuple[str, Exit]:
    """Give the one line and the exit code for an error."""
    if isinstance(error, OSError):
        name = f"`{error.filename}`: " if error.filename else ""
        return f"{name}{(error.strerror or str(error)).lower()}", Exit.USAGE
    return str(error), Exit.CONFIG if isinstance(error, OpaError) else Exit.NO
