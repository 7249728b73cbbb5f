"""What Prometheus may know of a sidecar: what became of actions, and how its records stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, get_args

from prometheus_client import CollectorRegistry

from exequatur.metrics import Families, Shipped
from exequatur.refusals import Code
from exequatur.shipper import Shipper
from exequatur.spool import Spool, SpoolError
from exequatur.trust.canonical import Json
from sidecar.doors.grpc import UNACKNOWLEDGED
from sidecar.gate import Why
from sidecar.recording import Record
from sidecar.settings import AgentSocket

DOORS: Final[tuple[str, ...]] = get_args(AgentSocket.model_fields["door"].annotation)

EFFECTS: Final = ("allow", "warn", "require_approval", "deny", "unspecified", "none")
"""What may have been decided; `none`: nothing was."""


class Metrics:
    """Counts of one process."""

    def __init__(self) -> None:
        """Begin at zero."""
        families = self.families = Families()
        self._actions = families.counter(
            "exequatur_sidecar_actions",
            "Actions judged, by the effect decided (`none`: nothing was) and why the gate refused (empty: go-ahead).",
            door=DOORS,
            effect=EFFECTS,
            why=("", *(why.value for why in Why), "foreign_agent", UNACKNOWLEDGED),
        )
        for door in DOORS:
            self._actions.labels(door, "none", Why.UNANSWERED.value)
        self._refused = families.refusals()
        self._alarms = families.alarms()
        self._spool_errors = families.counter("exequatur_spool_errors", "Actions that had no record: each was denied.")
        self._shipped = Shipped(families)
        self._spools: tuple[Spool, ...] = ()
        self._shippers: tuple[Shipper, ...] = ()

    def keeps(self, spool: Spool, certificate_ends: Callable[[], datetime | None] | None) -> None:
        """Tell of our spool and its disk, and of when our certificate ends."""
        self._spools = (spool,)
        self.families.keeps(spool.folder, "*.seg", certificate_ends)

    def ships(self, shipper: Shipper) -> None:
        """Tell of the way of our records to the ledger."""
        self._shippers = (shipper,)

    def collected(self) -> CollectorRegistry:
        """Give all of it as it is now."""
        self._shipped.show(self._spools, self._shippers)
        return self.families.registry

    def refuse(self, code: Code) -> None:
        """Count a call that got no answer."""
        self._refused.labels(code.name.lower()).inc()

    def alarmed(self, _: str) -> None:
        """Count an alarm."""
        self._alarms.inc()

    def answered(self, outcome: Mapping[str, Json]) -> None:
        """Count an action by the record of what was answered."""
        self._actions.labels(str(outcome["door"]), str(outcome["effect"]), str(outcome["why"])).inc()

    def counting(self, record: Record) -> Record:
        """Count each record that `record` could not make durable."""

        async def counted(fields: Mapping[str, Json]) -> int:
            try:
                return await record(fields)
            except SpoolError:
                self._spool_errors.inc()
                raise

        return counted
