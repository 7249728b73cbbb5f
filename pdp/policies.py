"""Whose policy speaks, and whether it still may: one standing a tenant, and what is tried beside it.

Rules: pure and immutable; a tenant that is not known has no policy, and no policy is a denial; what was withdrawn as a
whole stays so, whatever a tenant is given afterwards. The snapshot in a standing is in nobody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from exequatur.trust.canonical import Json
from pdp.engine.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate beside the policy in force; with `percent` 0 a shadow, that nobody's answer depends on.

    Otherwise, in that share of sessions, the stricter of both answers is given, and it ends by itself once more than
    `max_stricter_percent` of its answers were made stricter.
    """

    snapshot: Snapshot
    percent: int = 0
    max_stricter_percent: int = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's policy and how far it is trusted: until `trusted_until`, and not at all once `withdrawn` says why."""

    snapshot: Snapshot | None
    trusted_until: datetime | None = None
    withdrawn: str = ""
    trial: Trial | None = None
    trial_ended: str = ""
    """Why the last trial was ended, where it was."""

    @property
    def digest(self) -> bytes:
        """The digest of the policy in force; empty where there is none."""
        return b"" if self.snapshot is None else self.snapshot.digest

    @property
    def sequence(self) -> int:
        """The sequence of the policy in force; zero where there is none."""
        return 0 if self.snapshot is None else self.snapshot.sequence

    def silenced(self, now: datetime) -> str:
        """Say why the policy may not speak at `now`; empty where it may."""
        if self.withdrawn:
            return f"the policy in force is no longer trusted: {self.withdrawn}"
        if self.snapshot is None:
            return "no bundle has been served for this tenant yet"
        if now >= self.snapshot.expires_at:
            return "the policy in force has expired: a new bundle must be published"
        if self.snapshot.not_before is not None and now < self.snapshot.not_before:
            return "the policy in force does not count yet: the clock may be wrong"
        if self.trusted_until is not None and now >= self.trusted_until:
            since = self.trusted_until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return f"the source has not been heard since before {since}: the policy in force may not be the newest"
        return ""


NOBODYS: Final = Standing(None)


@dataclass(frozen=True, slots=True)
class Policies:
    """The standing of each tenant; `withdrawn`, once it says why, holds for all of them."""

    standings: Mapping[str, Standing] = field(default_factory=dict)
    withdrawn: str = ""

    def __post_init__(self) -> None:
        """Nobody else may change what we hold."""
        object.__setattr__(self, "standings", MappingProxyType(dict(self.standings)))

    def of(self, tenant: str) -> Standing:
        """Give the standing of `tenant`, which has no policy unless somebody gave it one."""
        return self.standings.get(tenant, NOBODYS)

    def having(self, tenant: str, standing: Standing) -> Policies:
        """Give these policies with another standing of `tenant`."""
        return Policies({**self.standings, tenant: self._trusted(standing)}, self.withdrawn)

    def distrusted(self, reason: str) -> Policies:
        """Give these policies with all of them withdrawn, those to come too."""
        lost = Policies({}, reason)
        return Policies({tenant: lost._trusted(each) for tenant, each in self.standings.items()}, reason)

    def _trusted(self, standing: Standing) -> Standing:
        return replace(standing, withdrawn=self.withdrawn) if self.withdrawn else standing


def changes(before: Policies, after: Policies) -> list[dict[str, Json]]:
    """Give what is to be put on record, but for the time, before anything is judged by `after`."""
    records: list[dict[str, Json]] = []
    for tenant, new in sorted(after.standings.items()):
        old = before.of(tenant)
        if new.withdrawn and new.withdrawn != old.withdrawn:
            records.append(_event("withdrawn", tenant, new.snapshot, reason=new.withdrawn))
        elif new.snapshot is not None and not new.withdrawn and (new.digest != old.digest or old.withdrawn):
            records.append(_event("in_force", tenant, new.snapshot))
        if new.trial is not None and not _same(new.trial, old.trial):
            records.append({**_event("candidate", tenant, new.trial.snapshot), "percent": new.trial.percent})
        elif new.trial is None and old.trial is not None and old.trial.snapshot.digest != new.digest:
            reason = new.trial_ended or "it is not tried any longer"
            records.append(_event("halted", tenant, old.trial.snapshot, reason=reason))
    return records


def _same(trial: Trial, other: Trial | None) -> bool:
    return other is not None and (trial.snapshot.digest, trial.percent) == (other.snapshot.digest, other.percent)


def _event(event: str, tenant: str, snapshot: Snapshot | None, *, reason: str = "") -> dict[str, Json]:
    return {
        "kind": "bundle",
        "event": event,
        "tenant": tenant,
        "bundle": "" if snapshot is None else snapshot.digest.hex(),
        "sequence": 0 if snapshot is None else snapshot.sequence,
        "kids": [] if snapshot is None else [*snapshot.kids],
        "reason": reason,
    }
