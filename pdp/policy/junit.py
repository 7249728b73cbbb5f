"""Trials as JUnit's XML, as CI systems read it (https://github.com/testmoapp/junitxml)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

from pdp.bundle.cases import Failure
from pdp.engine.reading import sentence
from pdp.policy.trials import Trial


def junit(trials: Iterable[Trial]) -> bytes:
    """Write a suite for each file of cases."""
    by_file: dict[str, list[Trial]] = {}
    for trial in trials:
        by_file.setdefault(trial.case.where.rpartition(":")[0], []).append(trial)
    root = ET.Element("testsuites", _counts([trial for listed in by_file.values() for trial in listed]))
    for file, listed in by_file.items():
        suite = ET.SubElement(root, "testsuite", {"name": file, **_counts(listed)})
        for trial in listed:
            line = trial.case.where.rpartition(":")[2]
            about = {"name": sentence(trial.case.name), "classname": file, "file": file, "line": line}
            case = ET.SubElement(suite, "testcase", {**about, "time": f"{trial.duration_s:.6f}"})
            if trial.failure is not None:
                said = ET.SubElement(case, "failure", {"type": "case", "message": _message(trial.failure)})
                said.text = _text(trial.failure)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _counts(trials: Sequence[Trial]) -> dict[str, str]:
    failed = sum(trial.failure is not None for trial in trials)
    took = sum(trial.duration_s for trial in trials)
    return {"tests": str(len(trials)), "failures": str(failed), "errors": "0", "time": f"{took:.6f}"}


def _message(failure: Failure) -> str:
    return sentence(f"wanted {failure.wanted}, got {failure.got}")


def _text(failure: Failure) -> str:
    lines = (f"{each.member}: wanted {each.wanted}, got {each.got}" for each in failure.differences)
    return "\n".join((failure.where, *(sentence(line) for line in lines)))
