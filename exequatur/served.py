"""What a decision point says of its bundles, as values.

Rules: as in `values`; an enum's number that is not known here is UNSPECIFIED, which is never taken for good.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum


class PolicyState(IntEnum):
    """Whether a tenant's policy judges; in every state but SERVING all actions are denied."""

    UNSPECIFIED = 0
    SERVING = 1
    STALE = 2
    EXPIRED = 3
    WITHDRAWN = 4
    NONE = 5


class TrialMode(IntEnum):
    """What a candidate's answers do: nothing, or for some sessions the stricter of both answers counts."""

    UNSPECIFIED = 0
    SHADOW = 1
    CANARY = 2


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle in force; the publisher's key first. Where nobody signed, `sequence` is zero and nothing expires."""

    digest: bytes
    sequence: int
    kids: tuple[str, ...]
    revision: str
    expires_at: dt.datetime | None
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class RefusedBundle:
    """The bundle that was refused last, and why."""

    origin: str
    digest: bytes
    reason: str
    at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """A bundle on trial; `judged` and what follows are counts. `halted` says why the trial was ended."""

    digest: bytes
    sequence: int
    mode: TrialMode
    percent: int
    judged: int
    stricter: int
    looser: int
    errors: int
    halted: str


@dataclass(frozen=True, slots=True)
class KeysStatus:
    """Who may sign; `fault` says why what lies in the folder now is not in force."""

    kids: tuple[str, ...]
    threshold: int
    revoked: tuple[str, ...]
    fault: str


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """One tenant's policy; `workers` has the digest that each serves, by its name. No `keys`: nobody has to sign."""

    tenant: str
    source: str
    state: PolicyState
    reason: str
    serving: ServedBundle | None
    floor: int
    confirmed_at: dt.datetime | None
    last_look_at: dt.datetime | None
    faults: tuple[str, ...]
    refused: RefusedBundle | None
    candidate: CandidateStatus | None
    keys: KeysStatus | None
    workers: dict[str, bytes]

    @property
    def behind(self) -> tuple[str, ...]:
        """The workers that serve something else than what is in force, or nothing."""
        digest = self.serving.digest if self.serving else b""
        return tuple(name for name, found in self.workers.items() if found != digest)


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """What a decision point serves, as its supervisor wrote it down `at`."""

    tenants: tuple[TenantStatus, ...]
    alarms: tuple[str, ...]
    at: dt.datetime | None

    @property
    def serving(self) -> bool:
        """Whether every tenant's policy judges; False when there is none."""
        return bool(self.tenants) and all(tenant.state is PolicyState.SERVING for tenant in self.tenants)
