"""Everything that is wrong with a folder of policy, found without running it: the work of `exequatur policy check`.

Rules: one mistake hides no other, as far as what is left can be understood; nothing is said twice for one line; what
comes out is sorted by file and line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pdp.engine import cedar
from pdp.policy.check.bundle_files import case_findings, other_files, read_agents, read_manifest, read_registry
from pdp.policy.check.cedar import check_cedar
from pdp.policy.check.findings import Finding
from pdp.policy.check.known import Known
from pdp.policy.check.rego import check_rego
from pdp.policy.rego_source import ENGINES


def check(files: Mapping[str, bytes], opa: Path | None) -> list[Finding]:
    """Find what is wrong with a folder's files; `opa` is needed where an engine reads Rego. Raises `OpaError`."""
    findings: list[Finding] = []
    settings = read_manifest(files, findings)
    registry, agents = read_registry(files, findings), read_agents(files, findings)
    known = Known(registry, agents) if registry is not None and agents is not None else None
    findings += other_files(files)
    findings += case_findings(files, known)
    specs = settings.engines if settings is not None else ()
    by_rego = next((spec for spec in specs if spec.engine in ENGINES), None)
    if any(spec.engine == cedar.ENGINE for spec in specs):
        findings += check_cedar(files, known, judged_by_rego=by_rego is not None)
    if by_rego is not None and any(name.endswith(".rego") for name in files):
        findings += check_rego(files, known, by_rego.entrypoint, by_rego.role, opa)
    return _tidy(findings)


def _tidy(findings: Iterable[Finding]) -> list[Finding]:
    """Sort, and keep one finding of a code for each line."""
    kept: dict[tuple[str, int, str], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.file, finding.line, finding.code), finding)
    return [kept[key] for key in sorted(kept)]
