"""Every command in the README and in docs/ works: each page's `sh` blocks run in order, as its reader would.

A comment before a block says what is special: `<!-- exit 1 -->` that its last command answers no, `<!-- not run: why -->`
that it is for another place, `<!-- in the background -->` that it is a daemon.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from pages import PAGES, blocks, lay


@pytest.fixture
def desk():
    """A short-named folder."""
    folder = Path(tempfile.mkdtemp(prefix="ex-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_works(page, desk):
    env = dict(os.environ, PATH=lay(desk), HOME=str(desk), NO_COLOR="1")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for note, text in blocks(page):
            if note.startswith("not run"):
                continue
            script = "set -uo pipefail\n" + ("" if note.startswith("exit ") else "set -e\n") + text
            if note == "in the background":
                running.append(
                    subprocess.Popen(["bash", "-c", "exec " + text.strip()], cwd=desk, env=env, start_new_session=True)
                )
                continue
            wanted = int(note.removeprefix("exit ")) if note.startswith("exit ") else 0
            done = subprocess.run(
                ["bash", "-c", script], cwd=desk, env=env, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == wanted, f"{text}\n{done.stdout}\n{done.stderr}"
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)


def test_a_workflow_runs_what_its_page_runs():
    """A pipeline cannot be run here; its commands can, one page up."""
    workflows = 0
    for page in PAGES:
        run = {line for note, text in blocks(page) if not note.startswith("not run") for line in lines(text)}
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
            value = yaml.safe_load(text)
            if not isinstance(value, dict) or "jobs" not in value:
                continue
            workflows += 1
            steps = [step["run"] for job in value["jobs"].values() for step in job["steps"] if "run" in step]
            commands = {line for step in steps for line in lines(step)}
            assert {line for line in commands if not line.startswith("pip install ")} <= run, page.name
    assert workflows


def lines(text: str) -> list[str]:
    """Split a script into its commands, each on one line."""
    whole = re.sub(r"\\\n\s*", "", text).replace(" && ", "\n")
    return [line.strip() for line in whole.splitlines() if line.strip()]


def test_pages_exist_and_link_to_files_that_exist():
    assert len(PAGES) > 1
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: `{link}`"
