"""What is wrong with the bundle's own files: registry, inventory, limits, settings, data, cases.

Rules: an entry that is wrong hides no other entry; a registry of which a tool cannot be read is good for nothing else,
since what is said of its other tools could be said because of that one; `outage` alone is left out and read past.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any, Final

from exequatur.registry import FILE as TOOLS
from exequatur.registry import Registry, RegistryError
from exequatur.schemas import escape, line_of
from exequatur.trust.archive import check_name
from exequatur.trust.canonical import JsonError, parse, quoted
from exequatur.trust.errors import FormatError
from pdp.bundle import cases
from pdp.bundle.cases import Case
from pdp.engine import manifest
from pdp.engine.inventory import AGENTS_FILE, LIMITS_FILE, Agents, Limits
from pdp.engine.manifest import Manifest
from pdp.engine.reading import BUNDLE_JSON, PolicyError
from pdp.engine.snapshot import DATA_FILE
from pdp.model import Effect
from pdp.policy.check.findings import Finding, found
from pdp.policy.check.known import Known
from pdp.policy.check.places import located

_POINTER: Final = re.compile(r"`(/[^`]*)`")
_READERS: Final = {".cedar": ("cedar",), ".rego": ("rego", "opa")}
_ALIKE: Final = 0.8
"""How much alike two names are of which one is meant for the other."""


def read_registry(files: Mapping[str, bytes], findings: list[Finding]) -> Registry | None:
    """Read `tools.json`; None where it cannot be read as a whole."""
    data = files.get(TOOLS)
    if data is None:
        findings.append(_missing(TOOLS))
        return None
    faults = _faults(TOOLS, data, "tools", Registry.parse)
    for line, text in faults:
        outage = "/outage` must be" in text and "for a tool" in text
        findings.append(found("EX602" if outage else "EX601", (TOOLS, line), text))
    if not faults:
        return Registry.parse(data)
    if all("/outage`" in text for _, text in faults):
        return _without_outage(data)
    return None


def read_agents(files: Mapping[str, bytes], findings: list[Finding]) -> Agents | None:
    """Read `agents.json`; None where it cannot be read."""
    data = files.get(AGENTS_FILE)
    if data is None:
        findings.append(_missing(AGENTS_FILE))
        return None
    faults = _faults(AGENTS_FILE, data, "agents", Agents.parse)
    findings += [found("EX601", (AGENTS_FILE, line), text) for line, text in faults]
    return None if faults else Agents.parse(data)


def read_manifest(files: Mapping[str, bytes], findings: list[Finding]) -> Manifest | None:
    """Read `exequatur.json`, and see whether its engines and the policy files fit each other."""
    data = files.get(manifest.FILE)
    if data is None:
        findings.append(_missing(manifest.FILE))
        return None
    try:
        settings = Manifest.parse(data)
    except PolicyError as error:
        findings.append(_fault(error, manifest.FILE))
        return None
    listed = {spec.engine for spec in settings.engines}
    for ending, readers in _READERS.items():
        written = sorted(name for name in files if name.endswith(ending))
        if written and listed.isdisjoint(readers):
            text = f"no engine in `{manifest.FILE}` reads this file, so it holds nothing"
            findings.append(found("EX605", (written[0], 1), text))
        if not written and (engine := next((name for name in readers if name in listed), "")):
            number = next(number for number, spec in enumerate(settings.engines) if spec.engine == engine)
            line = line_of(data, f"/engines/{number}")
            findings.append(
                found("EX605", (manifest.FILE, line), f"the engine `{engine}` has no `*{ending}` to judge by")
            )
    return settings


def other_files(files: Mapping[str, bytes]) -> list[Finding]:
    """Look at limits and data, and at what files are called."""
    findings = [*_names(files)]
    try:
        Limits.parse(files.get(LIMITS_FILE))
    except PolicyError as error:
        findings.append(_fault(error, LIMITS_FILE))
    text = f"data belongs in one `{DATA_FILE}` at the top: move it there"
    findings += [found("EX601", (name, 1), text) for name in sorted(files) if name.endswith("/" + DATA_FILE)]
    try:
        parse(files.get(DATA_FILE, b"{}"), BUNDLE_JSON)
    except JsonError as error:
        findings.append(found("EX601", (DATA_FILE, 1), str(error)))
    return findings


def _names(files: Mapping[str, bytes]) -> Iterator[Finding]:
    """Find files whose name no bundle takes, and those that are meant as policy or as cases and are read as neither."""
    for name in sorted(files):
        try:
            check_name(name)
        except FormatError:
            text = f"{quoted(name)} is not a name that a bundle takes"
            yield found(
                "EX601", (name, 1), text, fix="take letters, digits, `_`, `-` and `.`, and a name that is short"
            )
        path = PurePosixPath(name)
        near = get_close_matches(path.suffix.lower(), _READERS, 1, _ALIKE)
        if near and path.suffix != near[0]:
            text = f"nothing reads this file, so it holds nothing: policy ends in `{near[0]}`"
            yield found("EX605", (name, 1), text, fix="correct the ending, or take the file out")
        folder = get_close_matches(f"{path.parts[0].lower()}/", [cases.FOLDER], 1, _ALIKE)
        if folder and path.suffix.lower() in (".yaml", ".yml") and not cases.is_cases(name):
            text = f"nothing reads this file, so it holds nothing: cases are `{cases.FOLDER}*.yaml`"
            yield found("EX605", (name, 1), text, fix="correct the name, or take the file out")


def case_findings(files: Mapping[str, bytes], known: Known | None) -> list[Finding]:
    """Read all cases; one that wants anything but a denial must name tools and agents that are there."""
    findings: list[Finding] = []
    names = sorted(name for name in files if cases.is_cases(name))
    if not any(files[name].strip() for name in names):
        return [found("EX603", (names[0] if names else cases.FOLDER, 1))]
    for name in names:
        try:
            read = cases.read({name: files[name]})
        except PolicyError as error:
            file, line, text = located(str(error), name)
            empty = text.startswith("no case")
            findings.append(found("EX603" if empty else "EX604", (file, line), text))
            continue
        for case in read if known is not None else ():
            findings += _strangers(case, known)
    return findings


def _strangers(case: Case, known: Known | None) -> list[Finding]:
    file, _, line = case.where.rpartition(":")
    place = file, int(line)
    if known is None or case.want.effect is Effect.DENY:
        return []
    findings: list[Finding] = []
    if case.action.tool not in known.tools:
        findings.append(found("EX202", place, f"case `{case.name}` calls `{case.action.tool}`, which is no tool"))
    if case.action.agent not in known.agents:
        findings.append(found("EX203", place, f"case `{case.name}` is of `{case.action.agent}`, who is no agent"))
    return findings


def _missing(file: str) -> Finding:
    return found(
        "EX601", (file, 1), "this file is missing", fix="`exequatur bundle init` writes a start with all files"
    )


def _fault(error: Exception, file: str) -> Finding:
    name, line, text = located(str(error), file)
    return found("EX601", (name, line), text)


def _faults(file: str, data: bytes, member: str, read: Callable[[bytes], object]) -> list[tuple[int, str]]:
    """Give all faults of a file of named entries: those of the whole, and those of each entry by itself."""
    try:
        read(data)
    except (PolicyError, RegistryError) as error:
        first = located(str(error), file)
    else:
        return []
    try:
        document: Any = parse(data, BUNDLE_JSON)
    except JsonError:
        return [first[1:]]
    entries = document.get(member) if isinstance(document, dict) else None
    faults: dict[str, int] = {first[2]: first[1]}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            read(json.dumps({member: {name: entry}}).encode())
        except (PolicyError, RegistryError) as error:
            text = located(str(error), file)[2]
            pointer = _POINTER.match(text)
            faults.setdefault(text, line_of(data, pointer[1] if pointer else f"/{member}/{escape(name)}"))
    return sorted((line, text) for text, line in faults.items())


def _without_outage(data: bytes) -> Registry | None:
    """Read the registry as if no tool that may not had `outage`."""
    document: Any = parse(data, BUNDLE_JSON)
    for name, entry in document["tools"].items():
        try:
            Registry.parse(json.dumps({"tools": {name: entry}}).encode())
        except RegistryError:
            entry.pop("outage", None)
    try:
        return Registry.parse(json.dumps(document).encode())
    except RegistryError:
        return None
