"""`BundleService`: what is served, and looking for something newer now. Bytes in, bytes out.

Rules: who may look and who may ask for a look stands in the settings, and unset means nobody; the status is what the
supervisor wrote down, never what this worker thinks; one that is missing or cannot be read is UNAVAILABLE, not empty.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from exequatur.disk import reason
from exequatur.transport import MESSAGE_BYTES, Handler, Peer
from exequatur.trust.canonical import quoted
from exequatur.v1 import bundle_pb2
from pdp.api.calls import Calls, speaks_for
from pdp.control.sessions import (
    ControlError,
    InvalidError,
    LateError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
)

SERVICE: Final = bundle_pb2.DESCRIPTOR.services_by_name["BundleService"]
REFRESH_S: Final = 60.0
"""How long a refresh may take when the caller sets no deadline, or a later one, in seconds."""
ANSWER_S: Final = 0.2
"""How much of a caller's time is left for the answer, in seconds."""

_STATES: Final = {
    "serving": bundle_pb2.POLICY_STATE_SERVING,
    "stale": bundle_pb2.POLICY_STATE_STALE,
    "expired": bundle_pb2.POLICY_STATE_EXPIRED,
    "withdrawn": bundle_pb2.POLICY_STATE_WITHDRAWN,
    "none": bundle_pb2.POLICY_STATE_NONE,
}
_MODES: Final = {"shadow": bundle_pb2.TRIAL_MODE_SHADOW, "canary": bundle_pb2.TRIAL_MODE_CANARY}


class Refresher(Protocol):
    """Who can have the supervisor look."""

    async def refresh(self, tenant: str) -> Mapping[str, Any]:
        """Have it look now, for `tenant` or (empty) for all; gives the status afterwards, as `status.json` has it.

        Raises `UnavailableError` when there is no supervisor to ask. It is cancelled when it takes too long.
        """


class BundleApi:
    """The handlers of the service."""

    def __init__(
        self, calls: Calls, status: Path, refresher: Refresher, *, readers: frozenset[str], operators: frozenset[str]
    ) -> None:
        """Serve with `calls` what stands in the file `status`; `readers` may see it, `operators` may refresh too."""
        self._calls, self._file, self._refresher = calls, status, refresher
        self._readers, self._operators = readers | operators, operators

    def handlers(self) -> Mapping[str, Handler]:
        """Name each handler by its path."""
        return {
            f"/{SERVICE.full_name}/GetStatus": self.get_status,
            f"/{SERVICE.full_name}/Refresh": self.refresh,
        }

    async def get_status(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Show what is served."""
        try:
            tenant = self._calls.read(bundle_pb2.GetStatusRequest, message).tenant
            self._check(self._readers, peer, tenant, "auditors, openers and operators")
        except (InvalidError, NotAllowedError) as error:
            raise await self._calls.refuse(error, "GetStatus", message, peer, seconds_left) from None
        try:
            status = status_of(await asyncio.to_thread(self._read))
            self._show(status, peer, tenant)
        except ControlError as error:
            raise self._calls.refusal(error) from None
        return bundle_pb2.GetStatusResponse(status=status).SerializeToString()

    async def refresh(self, message: bytes, peer: Peer, seconds_left: float | None) -> bytes:
        """Look for newer bundles now, and show what is served afterwards."""
        try:
            tenant = self._calls.read(bundle_pb2.RefreshRequest, message).tenant
            self._check(self._operators, peer, tenant, "operators")
        except (InvalidError, NotAllowedError) as error:
            raise await self._calls.refuse(error, "Refresh", message, peer, seconds_left) from None
        try:
            _narrow(status_of(await asyncio.to_thread(self._read)), tenant)  # an unknown tenant has no origin to ask
            async with asyncio.timeout(_patience(seconds_left)):
                status = status_of(await self._refresher.refresh(tenant))
            self._show(status, peer, tenant)
        except TimeoutError:
            text = "the look is not finished: it goes on, and `GetStatus` will show what it finds"
            raise self._calls.refusal(LateError(text)) from None
        except ControlError as error:
            raise self._calls.refusal(error) from None
        return bundle_pb2.RefreshResponse(status=status).SerializeToString()

    def _check(self, names: frozenset[str], peer: Peer, tenant: str, who: str) -> None:
        if not speaks_for(names, peer, tenant):
            raise NotAllowedError(f"only {who} that the settings name may do this, for one tenant or for all")

    def _show(self, status: bundle_pb2.BundleStatus, peer: Peer, tenant: str) -> None:
        """Leave what the peer may see: alarms name other tenants too."""
        _narrow(status, tenant)
        if peer.identity not in self._readers:
            del status.alarms[:]

    def _read(self) -> Mapping[str, Any]:
        try:
            with self._file.open("rb") as file:
                data = file.read(MESSAGE_BYTES + 1)
            value = json.loads(data)
        except FileNotFoundError:
            raise UnavailableError("the supervisor has not written a status yet: try again in a second") from None
        except OSError as error:
            raise UnavailableError(f"the status cannot be read: {reason(error)}") from None
        except (ValueError, RecursionError):
            raise UnavailableError("the status cannot be read: it is no JSON") from None
        return value if isinstance(value, dict) else {}


def _patience(seconds_left: float | None) -> float:
    """How long the look may take, so that what is said of one that takes longer still reaches the caller."""
    return REFRESH_S if seconds_left is None else max(min(seconds_left - ANSWER_S, REFRESH_S), 0.0)


def status_of(value: Mapping[str, Any]) -> bundle_pb2.BundleStatus:
    """Write a status as the supervisor keeps it; raises `UnavailableError` for what is none."""
    try:
        status = bundle_pb2.BundleStatus(
            tenants=[_tenant(item) for item in value["tenants"]], alarms=value["alarms"], at=_time(value["at"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UnavailableError("the status cannot be read: it is of another version") from None
    return status


def _narrow(status: bundle_pb2.BundleStatus, tenant: str) -> None:
    """Leave the status of one tenant; raises `NotFoundError`."""
    if not tenant:
        return
    found = [item for item in status.tenants if item.tenant == tenant]
    if not found:
        raise NotFoundError(f"the tenant {quoted(tenant)} is not in the settings of this decision point")
    del status.tenants[:]
    status.tenants.extend(found)


def _tenant(value: Mapping[str, Any]) -> bundle_pb2.TenantStatus:
    serving, refused, candidate = value["serving"], value["refused"], value["candidate"]
    return bundle_pb2.TenantStatus(
        tenant=value["tenant"],
        source=value["source"],
        state=_STATES[value["state"]],
        reason=value["reason"],
        serving=None if serving is None else _serving(serving),
        floor=value["floor"] or 0,
        confirmed_at=_time(value["confirmed_at"]),
        last_look_at=_time(value["last_look_at"]),
        faults=value["faults"],
        refused=None if refused is None else _refused(refused),
        candidate=None if candidate is None else _candidate(candidate),
        keys=None if value["keys"] is None else _keys(value["keys"]),
        workers=[
            bundle_pb2.WorkerStatus(name=name, digest=_digest(digest)) for name, digest in value["workers"].items()
        ],
    )


def _serving(value: Mapping[str, Any]) -> bundle_pb2.ServedBundle:
    return bundle_pb2.ServedBundle(
        digest=_digest(value["digest"]),
        sequence=value["sequence"],
        kids=value["kids"],
        revision=value["revision"],
        expires_at=_time(value["expires_at"]),
        since=_time(value["since"]),
    )


def _refused(value: Mapping[str, Any]) -> bundle_pb2.RefusedBundle:
    return bundle_pb2.RefusedBundle(
        origin=value["origin"], digest=_digest(value["digest"]), reason=value["reason"], at=_time(value["at"])
    )


def _candidate(value: Mapping[str, Any]) -> bundle_pb2.CandidateStatus:
    return bundle_pb2.CandidateStatus(
        digest=_digest(value["digest"]),
        sequence=value["sequence"],
        mode=_MODES[value["mode"]],
        percent=value["percent"],
        judged=value["judged"],
        stricter=value["stricter"],
        looser=value["looser"],
        errors=value["errors"],
        halted=value["halted"],
    )


def _keys(value: Mapping[str, Any]) -> bundle_pb2.KeysStatus:
    return bundle_pb2.KeysStatus(
        kids=value["kids"], threshold=value["threshold"], revoked=value["revoked"], fault=value["fault"]
    )


def _digest(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def _time(text: str | None) -> Timestamp | None:
    if text is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(text))
    return stamp
