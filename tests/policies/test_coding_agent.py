"""The coding-agent pack: what is out of reach stays out of reach, by every way and in every spelling."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from packs import POLICIES, call, snapshot
from pdp.model import Effect, Verdict

PACK = "coding-agent"


def judged(tool: str, arguments: dict[str, Any]) -> Verdict:
    return snapshot(PACK).judge(call(PACK, "coder", tool, arguments))


LISTS = json.loads((POLICIES / PACK / "data.json").read_text())["lists"]
DIRS = st.lists(st.sampled_from(["src", "a b", "x=1", "Docs", "..."]), max_size=2)


@st.composite
def listed_path(draw: st.DrawFn, names: list[str]) -> str:
    """An absolute path in the workspace, or from the root, that holds one of the listed names in some spelling."""
    name = draw(st.sampled_from(names))
    whole = name if name.startswith("/") else f"/a{name}"
    whole = whole if whole.endswith("/") else f"{whole}b/"
    if not whole.startswith("//"):
        whole = "/" + "/".join(["workspace", *draw(DIRS)]) + whole
    folded = "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in whole[len("/workspace") :])
    within = whole.startswith("/workspace")
    return (("/workspace" + folded) if within else whole[1:]).rstrip("/")


def ways(path: str) -> list[tuple[str, dict[str, Any]]]:
    """The ways to get at a path through the tools."""
    repository, relative = {"repo_path": "/workspace"}, path.removeprefix("/workspace/")
    return [
        ("fs/write_file", {"path": path, "content": ""}),
        ("fs/delete_path", {"path": path}),
        ("git/git_add", {**repository, "files": ["src/a.py", relative]}),
        ("shell/exec", {"argv": ["tee", path], "cwd": "/workspace"}),
        ("shell/run", {"command": f"tee '{relative}'", "cwd": "/workspace"}),
        ("shell/run", {"command": f"echo x >{relative.replace(' ', '_')}", "cwd": "/workspace"}),
    ]


def readings(path: str) -> list[tuple[str, dict[str, Any]]]:
    repository, relative = {"repo_path": "/workspace"}, path.removeprefix("/workspace/")
    return [
        ("fs/read_file", {"path": path}),
        ("git/git_show", {**repository, "revision": f"HEAD~3:{relative}"}),
        ("git/git_diff", {**repository, "target": f":0:{relative}"}),
        ("shell/run", {"command": f'cat "{path}"', "cwd": "/workspace"}),
        ("shell/run", {"command": f"cat src/a.py;cat -- '{path}'", "cwd": "/workspace"}),
        ("shell/exec", {"argv": ["grep", f"--file={path}", "src/a.py"], "cwd": "/workspace"}),
    ]


MANY = settings(max_examples=40, deadline=None)


@MANY
@given(path=listed_path(LISTS["secrets"]))
def test_a_secret_is_out_of_reach_by_every_way_in_every_spelling(path):
    for tool, arguments in [*readings(path), *ways(path)]:
        verdict = judged(tool, arguments)
        assert verdict.effect is Effect.DENY
        assert "files.secret" in {reason.policy for reason in verdict.reasons}, tool


@MANY
@given(path=listed_path(LISTS["protected"]))
def test_what_others_run_is_not_changed_by_any_way_in_any_spelling(path):
    for tool, arguments in ways(path):
        verdict = judged(tool, arguments)
        assert verdict.effect is Effect.DENY
        assert "files.protected" in {reason.policy for reason in verdict.reasons}, tool


def test_the_largest_write_and_the_longest_command_are_judged_within_their_fuel():
    written = judged("fs/write_file", {"path": "/workspace/a.txt", "content": "x = 1\n" * 10_000})
    assert written.effect is Effect.ALLOW
    line = {"command": "pytest " + "tests/test_a.py " * 600, "cwd": "/workspace"}
    assert judged("shell/run", line).effect is Effect.ALLOW
