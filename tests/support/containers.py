"""One container of a pod, as far as files go: another user, and a folder that is mounted read-only for it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGENT, SIDECAR, SERVER = 64_200, 64_113, 64_114
"""User ids: the agent's, and those that a pod's sidecar and MCP servers have."""

AS = ("setpriv", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def user(uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, with no capability at all."""
    return [*AS, f"--reuid={uid}", f"--regid={uid}"]


def read_only(folder: Path, uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, who sees `folder` through a read-only mount."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", mount, str(folder), *user(uid)]


def python(script: str, *words: object, start: list[str]) -> str:
    """Run a script of Python behind `start`, and give what it prints."""
    words = tuple(map(str, words))
    done = subprocess.run([*start, sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
