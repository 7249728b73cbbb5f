"""The work of `exequatur policy test`: run cases, show what is not as wanted, and what they cover.

Rules: exit code 0 if every case that was asked for holds and the coverage is enough, else 1; no case at all proves
nothing, and is a 1 too. While files are watched, what is wrong with them is said, and the watching goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from exequatur.cli import policy_pictures as pictures
from exequatur.cli.console import Exit, console, emit, errors, fail
from exequatur.cli.files import write_whole
from exequatur.cli.policy_opening import FAULTS, faults, opening, said
from pdp.bundle import cases
from pdp.bundle.build import Compiler
from pdp.bundle.cases import Case
from pdp.policy import trials
from pdp.policy.coverage import Coverage, Covered, measure
from pdp.policy.junit import junit
from pdp.policy.opening import Compiled, Opened
from pdp.policy.trials import Trial
from pdp.policy.watching import changes

_QUIET_S = 1.0
"""For so long nobody needs to be told that it goes on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run and shown. Empty filters take every case; `threshold` is in percent."""

    path: Path
    named: str = ""
    file: str = ""
    policy: str = ""
    coverage: bool = False
    threshold: float | None = None
    report: Path | None = None
    as_json: bool = False


def test(asked: Asked, *, watch: bool) -> None:
    """Run the cases once, or each time that a file changes."""
    if watch:
        _watch(asked)
    else:
        with faults():
            raise typer.Exit(_run(asked))


def _watch(asked: Asked) -> None:
    if not asked.path.exists():
        fail(f"`{asked.path}`: it is not there: name a folder of sources, or a bundle")
    compiler = Compiled()
    try:
        for _ in changes(asked.path, time.sleep):
            if not asked.as_json:
                console.clear()  # on a terminal, and nowhere else
            try:
                _run(asked, compiler)
            except FAULTS as error:
                if asked.as_json:
                    emit({"error": said(error)[0]}, as_json=True, render=lambda: None)
                else:
                    console.print(pictures.error(said(error)[0]))
            if not asked.as_json:
                console.print(pictures.watching(asked.path))
    except KeyboardInterrupt:
        raise typer.Exit(Exit.OK) from None


def _run(asked: Asked, compiler: Compiler | None = None) -> Exit:
    begun = time.perf_counter()
    with opening(asked.path, compiler) as opened:
        chosen = [case for case in cases.read(opened.files) if _is_chosen(asked, case)]
        tried = [trial for trial in _try(opened, chosen) if _cites(asked.policy, trial)]
        coverage = None
        if asked.coverage or asked.threshold is not None:
            with errors.status("measuring coverage"):
                coverage = measure(opened, tried)
    if asked.report is not None:
        write_whole(asked.report, junit(tried))
    enough = coverage is None or asked.threshold is None or coverage.percent >= asked.threshold
    failed = sum(trial.failure is not None for trial in tried)
    value = {
        "cases": len(tried),
        "failed": failed,
        "took_ms": round((time.perf_counter() - begun) * 1000),
        "results": [_result(trial) for trial in tried],
        "coverage": None if coverage is None else _coverage(coverage, asked.threshold),
    }
    emit(value, as_json=asked.as_json, render=lambda: pictures.tried(value))
    return Exit.OK if tried and not failed and enough else Exit.NO


def _is_chosen(asked: Asked, case: Case) -> bool:
    file = case.where.rpartition(":")[0]
    return asked.named.lower() in case.name.lower() and asked.file in file


def _cites(policy: str, trial: Trial) -> bool:
    """Whether a policy is among what is wanted, or among the reasons; any is, where none is named."""
    want, reasons = trial.case.want, trial.outcome.decision.reasons
    wanted = (*want.policies, *want.not_policies, *(like.policy for like in want.reasons))
    return not policy or policy in wanted or any(reason.policy == policy for reason in reasons)


def _try(opened: Opened, chosen: Iterable[Case]) -> Iterator[Trial]:
    """Run cases; a bar appears where it takes longer than a second and a person watches."""
    listed = list(chosen)
    columns = (TextColumn("running cases"), BarColumn(), MofNCompleteColumn())
    begun = time.perf_counter()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", total=len(listed), visible=False)
        for case in listed:
            yield trials.run(case, opened.snapshot)
            progress.update(task, advance=1, visible=time.perf_counter() - begun > _QUIET_S)


def _result(trial: Trial) -> dict[str, Any]:
    decision, failure = trial.outcome.decision, trial.failure
    return {
        "where": trial.case.where,
        "name": trial.case.name,
        "holds": failure is None,
        "effect": decision.effect.name.lower(),
        "policies": [reason.policy for reason in decision.reasons if reason.policy],
        "took_us": round(trial.duration_s * 1_000_000),
        "wanted": failure.wanted if failure else "",
        "got": failure.got if failure else "",
        "differences": [
            {"member": each.member, "wanted": each.wanted, "got": each.got}
            for each in (failure.differences if failure else ())
        ],
    }


def _coverage(coverage: Coverage, threshold: float | None) -> dict[str, Any]:
    return {
        "covered": coverage.covered,
        "total": coverage.total,
        "percent": round(coverage.percent, 2),
        "threshold": threshold,
        "enough": threshold is None or coverage.percent >= threshold,
        "policies": [_covered(policy) for policy in coverage.policies],
    }


def _covered(policy: Covered) -> dict[str, Any]:
    return {
        "policy": policy.policy,
        "language": policy.language,
        "file": policy.held.file,
        "line": policy.held.line,
        "held": not policy.held.missing,
        "conditions": len(policy.conditions),
        "covered": sum(not each.missing for each in policy.conditions),
        "missing": [
            {"file": each.file, "line": each.line, "text": each.text, "missing": each.missing}
            for each in policy.missing
        ],
    }
