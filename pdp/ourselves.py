"""Who this decision point is to others: its name and its TLS files, the same in the supervisor and in each worker."""

from __future__ import annotations

from collections.abc import Callable

from exequatur import daemon
from exequatur.identity import TlsFiles, own_identity
from exequatur.renewal import Renewal, renewal
from exequatur.sockets import ListenError


def identity(tls: TlsFiles | None) -> str:
    """Name ourselves; raises `StartError`."""
    try:
        return own_identity(tls)
    except ListenError as error:
        raise daemon.StartError(str(error)) from None


def watched(tls: TlsFiles | None, alarmed: Callable[[str], None] = lambda _: None) -> Renewal | None:
    """Watch our TLS files, if there are any; raises `StartError`."""
    try:
        return renewal(tls, alarmed)
    except ListenError as error:
        raise daemon.StartError(str(error)) from None
