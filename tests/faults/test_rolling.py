"""Everything that the chart runs is replaced under load, one after another: no action fails, and none is unrecorded.

What `helm template` gives runs here as processes, in pods' namespaces, with an Envoy as each Service: a ledger, three
decision points on PostgreSQL, and two agents whose pods the injector has patched, with a steady rate of actions each.
"""

from __future__ import annotations

import collections
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fleet
from entries import records
from exequatur.verifier import verify
from pods import Pod

pytestmark = pytest.mark.cluster

RATE = 15.0
"""Actions a second of each agent: two cores have all the daemons, the database and the agents."""
QUIET_S = 1.0


@dataclass
class Work:
    """What the agents have said of their actions, by pod."""

    logs: list[Path]

    def add(self, pod: Pod) -> None:
        self.logs.append(pod.containers["main"].log)

    @property
    def lines(self) -> list[dict[str, Any]]:
        found = [line for log in self.logs for line in log.read_text().splitlines()]
        assert all(line.startswith("{") and line.endswith("}") for line in found), found[-3:]
        return [json.loads(line) for line in found]

    @property
    def actions(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "ended" not in line]


@dataclass
class Phase:
    """What happened while one thing was replaced."""

    name: str
    seconds: float
    actions: Sequence[dict[str, Any]]

    def __str__(self) -> str:
        took = sorted(action["took"] * 1000 for action in self.actions)
        ends = sorted(action["began"] + action["took"] for action in self.actions)
        gap = max((b - a for a, b in itertools.pairwise(ends)), default=0.0) * 1000
        failed = sum(1 for action in self.actions if action["fault"])
        p99 = statistics.quantiles(took, n=100)[98]
        return (
            f"{self.name}: {self.seconds:.1f} s, {len(took)} actions, {failed} failed, p50 {statistics.median(took):.0f} ms,"
            f" p99 {p99:.0f} ms, longest {took[-1]:.0f} ms, longest gap {gap:.0f} ms"
        )


def test_decision_points_ledger_and_sidecars_are_replaced_under_load_and_no_action_is_lost(postgres_seed):
    work, phases = Work([]), []
    with fleet.running(postgres_seed) as running:
        running.start()
        for name in fleet.AGENTS:
            work.add(running.add_agent(name, RATE))

        def phase(name: str, what: Callable[[], object]) -> None:
            began = time.monotonic()
            fleet.steady(QUIET_S)
            what()
            running.settle_down()
            fleet.steady(QUIET_S)
            phases.append((name, began, time.monotonic()))

        phase("nothing", lambda: None)
        for number in range(3):
            phase(f"decision point {number + 1}", running.roll_pdp)
        phase("ledger", running.roll_ledger)
        for name in fleet.AGENTS:

            def replace(name: str = name) -> None:
                running.end_agent(name)
                work.add(running.add_agent(name, RATE))

            phase(f"sidecar of {name}", replace)
        for name in fleet.AGENTS:
            running.end_agent(name)
        running.stop()

        actions = work.actions
        print()
        for name, began, ended in phases:
            print(Phase(name, ended - began, [each for each in actions if began <= each["began"] < ended]))
        print(Phase("all", phases[-1][2] - phases[0][1], actions))

        assert sum("ended" in line for line in work.lines) == 2 * len(fleet.AGENTS)  # each agent ended by itself
        assert [action for action in actions if action["fault"] or not action["settled"]] == []
        unrecorded(running.log, {action["id"] for action in actions})
        report = verify(running.log, str(running.log_key))
        assert report.ok, report.fault


def unrecorded(log: Path, answered: set[str]) -> None:
    """Hold what was answered against the log: one decision, one outcome that was a go-ahead, and its settlement."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for record in records(log):
        if record["kind"] != "outcome" or record["go"]:
            counts[record["kind"], record.get("decision_id", "")] += 1
    for kind in ("decision", "outcome", "settlement"):
        found = {decision for (which, decision), _ in counts.items() if which == kind}
        assert answered - found == set(), kind
        assert {decision: counts[kind, decision] for decision in answered if counts[kind, decision] != 1} == {}, kind
