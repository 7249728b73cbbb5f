"""Small bundles for tests of what helps authors: Cedar alone, which needs no `opa`, and the starter with both."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from exequatur.trust.bundle import VerifiedBundle
from pdp.bundle import cases
from pdp.bundle import standing as tried_here
from pdp.engine import rego
from pdp.engine.snapshot import Snapshot
from pdp.policy import opening, trials
from pdp.policy.opening import Opened, opened
from pdp.policy.trials import Trial
from policies import opa
from publisher import sources

CEDAR_ALONE = {"document_version": 1, "name": "n", "engines": [{"engine": "cedar", "role": "decide"}]}
READ = "agent: assistant, tool: notes/read, arguments: {path: /notes/a.md}"


def cedar_files(policies: str, listed: str) -> dict[str, bytes]:
    """Give a bundle of the starter's tools and agents with these policies and cases."""
    files = sources(decision_rego=None, data_json=None, cases__mail_yaml=None, restrictions_cedar=None)
    files["exequatur.json"] = json.dumps(CEDAR_ALONE).encode()
    files["permits.cedar"] = policies.encode()
    files["cases/notes.yaml"] = listed.encode()
    return files


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@contextmanager
def tried(folder: Path, files: dict[str, bytes]) -> Iterator[tuple[Opened, list[Trial]]]:
    """Open a bundle of these files, and run its cases."""
    with opened(lay(folder, files), Path(opa())) as found:
        yield found, [trials.run(case, found.snapshot) for case in cases.read(found.files)]


_compiled = functools.cache(rego.compile_module)


def compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bundles that are opened again take the machine code of the first time, as workers do; it is half a second."""

    def standing(bundle: VerifiedBundle, program: Path | None) -> AbstractContextManager[Snapshot]:
        wasm = bundle.files.get(rego.FILE)
        return tried_here.standing(bundle, program, wasm_module=None if wasm is None else _compiled(wasm))

    monkeypatch.setattr(opening, "standing", standing)
