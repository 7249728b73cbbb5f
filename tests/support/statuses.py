"""Statuses as the supervisor writes them, for tests of whoever reads them."""

from __future__ import annotations

import hashlib
from typing import Any

AT = "2026-11-21T03:00:00.000Z"


def digest(text: str) -> str:
    """Give some digest, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def tenant(name: str = "default", **changes: Any) -> dict[str, Any]:
    """Give a tenant that is served without a fault."""
    return {
        "tenant": name,
        "source": f"https://bundles.example.org/{name}.tar.gz",
        "serving": {
            "digest": digest("41"),
            "sequence": 41,
            "kids": ["alice", "bob"],
            "revision": "r41",
            "expires_at": "2026-12-21T03:00:00.000Z",
            "since": "2026-11-20T03:00:00.000Z",
        },
        "state": "serving",
        "reason": "",
        "floor": 41,
        "confirmed_at": "2026-11-21T02:59:55.000Z",
        "last_look_at": "2026-11-21T02:59:59.000Z",
        "faults": [],
        "refused": None,
        "candidate": None,
        "keys": {"kids": ["alice", "bob"], "threshold": 2, "revoked": ["mallory"], "fault": ""},
        "workers": {"worker 0": digest("41"), "worker 1": digest("41")},
        **changes,
    }


REFUSED = {
    "origin": "https://bundles.example.org/acme.tar.gz",
    "digest": digest("42"),
    "reason": "case `push` in `cases/git.yaml:12`: DENY was wanted, and it is [ALLOW]",
    "at": "2026-11-21T02:57:00.000Z",
}
CANDIDATE = {
    "digest": digest("43"),
    "sequence": 43,
    "mode": "canary",
    "percent": 10,
    "judged": 1280,
    "stricter": 4,
    "looser": 1,
    "errors": 2,
    "halted": "it failed to judge an action",
}


def status(*tenants: dict[str, Any], alarms: tuple[str, ...] = (), at: str = AT) -> dict[str, Any]:
    """Give a whole status."""
    return {"tenants": [*tenants], "alarms": [*alarms], "at": at}
