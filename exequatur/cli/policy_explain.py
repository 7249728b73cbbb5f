"""The work of `exequatur policy eval` and `explain`: one action, what each engine saw and said, and why.

Rules: exit code 0 is a go-ahead (ALLOW, WARN), 1 is none; nothing is reserved or recorded, and values are shown, since
whoever asks gave them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import typer

from exequatur.cli import policy_pictures as pictures
from exequatur.cli.authorize import read_envelope
from exequatur.cli.console import Exit, emit, fail
from exequatur.cli.judging import read_session
from exequatur.cli.policy_opening import faults, opening
from exequatur.trust.canonical import quoted
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.bundle.wanted import Want
from pdp.engine.document import rego_document
from pdp.model import Decision, Effect, Verdict
from pdp.policy import trials
from pdp.policy.explain import EngineWhy, Why, explain
from pdp.policy.opening import Opened
from pdp.policy.rego_source import ENGINES
from pdp.policy.trials import Trial

_LOCAL = "local"
"""The id of the session that is made up here, where the action names none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: an action in an envelope, or a case by its name."""

    path: Path
    envelope: Path | None = None
    case: str = ""
    session: Path | None = None
    time: str = ""
    door_enforced: bool = False
    as_json: bool = False


def evaluate(asked: Asked, *, documents: bool, query: str) -> NoReturn:
    """Judge, and show each engine's verdict, and its document if that is asked for; or answer a query in Rego."""
    case = None if asked.envelope is None else _case_of(asked, asked.envelope)
    if case is None and not query:
        fail("name an action, as a file of JSON or `-`, or give a `--query`")
    with faults(), opening(asked.path) as opened:
        trial = None if case is None else _run(opened, case)
        if query:
            _answer(opened, trial, query, as_json=asked.as_json)
        if trial is None:
            raise RuntimeError("neither an action nor a query")
        value = {**_judged(trial), "engines": [_verdict(*each) for each in trial.verdicts]}
        if documents:
            value["documents"] = _documents(opened, trial)
    emit(value, as_json=asked.as_json, render=lambda: pictures.judged(value))
    raise typer.Exit(_exit(trial))


def why(asked: Asked) -> NoReturn:
    """Judge, and say why."""
    if (asked.envelope is None) == (not asked.case):
        fail("name an action, as a file of JSON or `-`, or else a case with `--case`")
    case = None if asked.envelope is None else _case_of(asked, asked.envelope)
    with faults(), opening(asked.path) as opened:
        trial = _run(opened, case or _named(opened, asked.case))
        value = {**_judged(trial), "engines": [_explained(each) for each in explain(opened, trial)]}
    emit(value, as_json=asked.as_json, render=lambda: pictures.explained(value))
    raise typer.Exit(_exit(trial))


def _case_of(asked: Asked, envelope: Path) -> Case:
    """Make a case of an action; what is wanted of it is not looked at."""
    action = read_envelope(envelope)
    run = read_session(asked.session, action.session or _LOCAL)
    return Case(str(envelope), action.tool, action, _time(asked.time), asked.door_enforced, run, Want(Effect.ALLOW))


def _time(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        fail("`--time` must be a time with its zone, such as `2026-01-05T10:00:00Z`")
    return time.astimezone(UTC)


def _named(opened: Opened, name: str) -> Case:
    """Find the one case that is meant: the one with this name, else the only one with this text in its name."""
    listed = cases.read(opened.files)
    found = [case for case in listed if case.name == name] or [case for case in listed if name in case.name]
    if len(found) != 1:
        some = ", ".join(f"`{case.name}` at {case.where}" for case in found[:3])
        fail(f"{len(found)} cases are called {quoted(name)}: {some}" if found else f"no case is called {quoted(name)}")
    return found[0]


def _run(opened: Opened, case: Case) -> Trial:
    """Judge for the action's own tenant: whose bundle it is, its signature would say."""
    return trials.run(case, replace(opened.snapshot, tenant=case.action.tenant))


def _exit(trial: Trial) -> Exit:
    return Exit.OK if trial.outcome.decision.effect.may_run else Exit.NO


def _answer(opened: Opened, trial: Trial | None, query: str, *, as_json: bool) -> NoReturn:
    """Answer a query in Rego: exit code 0 if it has an answer, 1 if it is undefined."""
    with opened.rego() as rego:
        if rego is None:
            fail("no engine in this bundle reads Rego, so that there is nothing to query", Exit.NO)
        results = rego.query(query, None if trial is None else trial.facts)
    emit({"results": results}, as_json=as_json, render=lambda: pictures.results(results))
    raise typer.Exit(Exit.OK if results else Exit.NO)


def _judged(trial: Trial) -> dict[str, Any]:
    action = trial.case.action
    return {
        "where": trial.case.where,
        "case": trial.case.name if trial.case.name != action.tool else "",
        "tool": action.tool,
        "agent": action.agent,
        "asked": trial.facts is not None,
        **_said(trial.outcome.decision),
    }


def _said(decision: Decision | Verdict) -> dict[str, Any]:
    return {
        "effect": decision.effect.name.lower(),
        "reasons": [
            {
                "kind": reason.kind.name.lower(),
                "policy": reason.policy,
                "engine": reason.engine,
                "text": reason.text,
                "owasp": reason.owasp,
            }
            for reason in decision.reasons
        ],
        "obligations": [{"id": each.id, "parameters": dict(each.parameters)} for each in decision.obligations],
        "approvers": list(decision.approvers),
        "errors": list(decision.errors),
    }


def _verdict(spec: Any, verdict: Verdict) -> dict[str, Any]:
    return {"engine": spec.engine, "role": spec.role.value, **_said(verdict)}


def _documents(opened: Opened, trial: Trial) -> dict[str, Any]:
    """Give what each engine saw. Cedar's holds what the policies about this action can read, and no more."""
    if trial.facts is None:
        return {}
    found: dict[str, Any] = {}
    for spec, _ in trial.verdicts:
        if spec.engine in ENGINES:
            found[spec.engine] = rego_document(trial.facts)
        elif opened.cedar is not None:
            question = opened.cedar.question(trial.facts)
            context = json.loads(question.request["context"])
            found[spec.engine] = {
                **question.request,
                "context": context,
                "entities": json.loads(str(question.entities)),
            }
    return found


def _explained(engine: EngineWhy) -> dict[str, Any]:
    return {
        **_verdict(engine.spec, engine.verdict),
        "policies": [_why(each) for each in engine.policies],
        "elsewhere": dict(engine.elsewhere),
    }


def _why(policy: Why) -> Mapping[str, Any]:
    return asdict(policy)
