"""Who this decision point is to others: its name and its TLS files, the same in the supervisor and in each worker."""

from __future__ import annotations

from collections.abc import Callable

from exequatur import daemon
from exequatur.identity import own_identity
from exequatur.renewal import Renewal, renewal
from exequatur.sockets import ListenError
from pdp.settings import PdpSettings


def identity(settings: PdpSettings) -> str:
    """Name ourselves; raises `StartError`."""
    try:
        return own_identity(settings.tls)
    except ListenError as error:
        raise daemon.StartError(str(error)) from None


def watched(settings: PdpSettings, alarmed: Callable[[str], None] = lambda _: None) -> Renewal | None:
    """Watch our TLS files, if there are any; raises `StartError`."""
    try:
        return renewal(settings.tls, alarmed)
    except ListenError as error:
        raise daemon.StartError(str(error)) from None
