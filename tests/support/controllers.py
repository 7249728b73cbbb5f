"""What controllers and nodes would report, where there are none: everything that was asked for is there, and well.

So whoever waits for it (`helm --wait`, `kubectl wait`, a deletion) goes on, and a command that waits for something that
nobody asked for still waits for ever.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from control_plane import ControlPlane
from helm import Object

LOOK_S: Final = 0.5
_AT: Final = "2026-01-01T00:00:00Z"
"""When it all happened; nobody asks."""


def _condition(kind: str, reason: str = "Told") -> Object:
    return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": _AT}


def _deployment(item: Object) -> Object:
    wanted = item["spec"]["replicas"]
    counted = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
    made = [_condition("Available"), _condition("Progressing", "NewReplicaSetAvailable")]
    return {"observedGeneration": item["metadata"]["generation"], "conditions": made, **counted}


def _stateful_set(item: Object) -> Object:
    wanted = item["spec"]["replicas"]
    counted = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "currentReplicas")
    revision = {"currentRevision": "one", "updateRevision": "one"}
    return {"observedGeneration": item["metadata"]["generation"], **dict.fromkeys(counted, wanted), **revision}


def _pod(_: Object) -> Object:
    return {"phase": "Running", "conditions": [_condition("Ready")]}


def _claim(item: Object) -> Object:
    return {"phase": "Bound", "capacity": item["spec"]["resources"]["requests"]}


def _job(_: Object) -> Object:
    done = [_condition("SuccessCriteriaMet"), _condition("Complete")]
    return {"startTime": _AT, "completionTime": _AT, "succeeded": 1, "conditions": done}


_WELL: Final[dict[str, Callable[[Object], Object]]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "Pod": _pod,
    "PersistentVolumeClaim": _claim,
    "Job": _job,
}


class Controllers:
    """They work on a thread, while this is entered."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(LOOK_S):
            found = self._plane.kubectl("get", ",".join(_WELL), "--all-namespaces", "--output=json", check=False)
            for item in json.loads(found.stdout or '{"items": []}')["items"]:
                self._settle(item)

    def _settle(self, item: Any) -> None:
        metadata, well = item["metadata"], _WELL[item["kind"]](item)
        if "deletionTimestamp" in metadata and metadata.get("finalizers"):
            self._patch(item, {"metadata": {"finalizers": None}})
        elif not _within(well, item.get("status") or {}):
            self._patch(item, {"status": well}, "--subresource=status")

    def _patch(self, item: Any, patch: Object, *more: str) -> None:
        """Change it, unless it is gone meanwhile."""
        metadata = item["metadata"]
        where = (f"--namespace={metadata['namespace']}", item["kind"], metadata["name"])
        self._plane.kubectl("patch", *where, "--type=merge", f"--patch={json.dumps(patch)}", *more, check=False)


def _within(wanted: Object, found: Object) -> bool:
    """Whether what is wanted is found; of lists, that there is one as long."""
    return all(
        len(found.get(name) or ()) == len(value) if isinstance(value, list) else found.get(name) == value
        for name, value in wanted.items()
    )
