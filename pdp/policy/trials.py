"""Cases as they went: what was decided, what each engine saw and said.

Rules: a case goes the very way of an action, and only listens on it: engines are wrapped, never replaced.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from pdp.bundle import cases
from pdp.bundle.cases import Case, Failure
from pdp.engine.document import Facts
from pdp.engine.manifest import EngineSpec
from pdp.engine.snapshot import Engine, Snapshot
from pdp.judge import Outcome
from pdp.model import Verdict


@dataclass(frozen=True, slots=True)
class Trial:
    """One case that was run. `facts` is None where no engine was asked: the action was refused before."""

    case: Case
    outcome: Outcome
    failure: Failure | None
    facts: Facts | None
    verdicts: tuple[tuple[EngineSpec, Verdict], ...]
    duration_s: float


class _Listening:
    """Asks an engine, and keeps what it was asked and said."""

    def __init__(self, spec: EngineSpec, engine: Engine, heard: list[tuple[EngineSpec, Facts, Verdict]]) -> None:
        self._spec, self._engine, self._heard = spec, engine, heard

    def judge(self, facts: Facts) -> Verdict:
        verdict = self._engine.judge(facts)
        self._heard.append((self._spec, facts, verdict))
        return verdict


def run(case: Case, snapshot: Snapshot) -> Trial:
    """Run one case on a snapshot, as `pdp.bundle.cases.in_force` gives it."""
    heard: list[tuple[EngineSpec, Facts, Verdict]] = []
    engines = tuple((spec, _Listening(spec, engine, heard)) for spec, engine in snapshot.engines)
    begun = time.perf_counter()
    outcome = cases.judged(case, replace(snapshot, engines=engines))
    took = time.perf_counter() - begun
    return Trial(
        case=case,
        outcome=outcome,
        failure=cases.failure(case, outcome),
        facts=heard[0][1] if heard else None,
        verdicts=tuple((spec, verdict) for spec, _, verdict in heard),
        duration_s=took,
    )
