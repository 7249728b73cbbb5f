"""What the image is made of is pinned, what it runs as is nobody, and no secret gets near it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
INSTRUCTIONS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith(("#", " "))]
ENGINE_IGNORES = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_hadolint_finds_nothing():
    command = [Path(sys.executable).with_name("hadolint"), "-c", ROOT / ".hadolint.yaml", ROOT / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_image_that_we_start_from_is_named_by_its_digest():
    stages: set[str] = set()
    for line in of("FROM"):
        image, _, stage = line.partition(" AS ")
        assert image in stages or re.fullmatch(r"python:3\.13[a-z-]*@sha256:[0-9a-f]{64}", image), line
        stages.add(stage)
    assert of("FROM")[-1] == "daemons AS exequatur", "what is built where no target is named"


def test_nothing_comes_from_an_address():
    assert of("ADD") == []
    assert not [line for line in of("COPY") if "://" in line]


def test_what_runs_is_no_root():
    for stage in "\n".join(" ".join(line) for line in INSTRUCTIONS).split("FROM ")[2:]:
        users = re.findall(r"^USER (.*)$", stage, re.MULTILINE)
        assert users[-1:] in ([], ["64113:64113"])
    assert "64113:64113" in of("USER")
    assert of("ENTRYPOINT") == ['["exequatur"]']
    assert of("STOPSIGNAL") == ["SIGTERM"]


def allowed(path: str) -> bool:
    """Whether an engine is sent `path`: the last rule that fits decides; only what our rules use is understood."""
    sent = True
    for rule in ENGINE_IGNORES:
        keep, pattern = rule.startswith("!"), rule.removeprefix("!")
        if pattern == "*":
            fits = True
        elif pattern.startswith("**/"):
            parts = re.escape(pattern.removeprefix("**/")).replace(r"\*", "[^/]*")
            fits = re.search(rf"(^|/){parts}(/|$)", path) is not None
        else:
            fits = path == pattern or path.startswith(pattern + "/")
        sent = keep if fits else sent
    return sent


@pytest.mark.parametrize(
    "path",
    [
        "bundles/dev-never-in-production.key",
        "bundles/keys/other.key",
        "exequatur/ledger.key",
        "pdp/.env",
        "sidecar/.env.local",
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "requirements/dev.txt",
        "pdp/__pycache__/worker.cpython-313.pyc",
        "state/exequatur.db",
    ],
)
def test_no_secret_and_no_test_is_sent_to_an_engine(path):
    assert not allowed(path)


def test_all_that_is_copied_is_sent_and_nothing_else_is():
    copied = [name for line in of("COPY") if not line.startswith("--from") for name in line.split()[:-1]]
    assert all(allowed(name) for name in copied)
    assert sorted(copied) == sorted(rule[1:] for rule in ENGINE_IGNORES if rule[0] == "!")
    assert {"pdp", "sidecar", "ledger", "injector", "exequatur", "bundles/keys"} <= set(copied)
    assert allowed("bundles/keys/dev-never-in-production.pem")


def test_each_rule_that_is_left_out_says_why():
    lines = (ROOT / ".hadolint.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("- "):
            assert lines[number - 1].strip().startswith("# ")
