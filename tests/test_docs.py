"""Every command in the README and in docs/ works: each page's `sh` blocks run in order, as its reader would."""

from __future__ import annotations

import re

import pytest
import yaml

from pages import AUDIT, PAGES, blocks, walk


# The one page that is missing here is walked by tests/exequatur/cli/test_demo.py.
@pytest.mark.parametrize("page", [page for page in PAGES if page != AUDIT], ids=lambda page: page.name)
def test_every_command_of_the_page_works(page):
    walk(page)


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
