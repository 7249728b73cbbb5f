"""One container of a pod, as far as files go: another user, and volumes that are mounted for it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGENT, SIDECAR, SERVER = 64_200, 64_113, 64_114
"""User ids: the agent's, and those that a pod's sidecar and MCP servers have."""


def user(uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, without any capability."""
    return _inside("true", Path("/"), uid)


def read_only(folder: Path, uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, who sees `folder` through a read-only mount."""
    return _inside('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"', folder, uid)


def volume(folder: Path, uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, for whom a volume in memory lies over `folder`."""
    return _inside('mount -t tmpfs -o mode=0777 tmpfs "$1"', folder, uid)


def beside(pid: int, folder: Path, uid: int) -> list[str]:
    """Give the start of a command line that runs the rest as `uid`, who has the same volume as `pid`, read-only."""
    return ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--", *read_only(folder, uid)]


def python(script: str, *words: object, start: list[str]) -> str:
    """Run a script of Python behind `start`, and give what it prints."""
    command = [*start, sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _inside(mounts: str, folder: Path, uid: int) -> list[str]:
    """Run `mounts` on `folder` in a mount namespace of its own, see that Python can be reached, and become `uid`."""
    base = Path(sys.base_prefix)
    closed = next((path for path in reversed(base.parents) if not path.stat().st_mode & 0o001), None)
    opened = f'exec 9<"{base}" && mount -t tmpfs -o mode=0755 tmpfs "{closed}" && mkdir -p "{base}"'
    opened = (
        "true"
        if closed is None
        else f'{opened} && mount --no-canonicalize --bind /proc/self/fd/9 "{base}" && exec 9<&-'
    )
    become = f"setpriv --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all --reuid={uid} --regid={uid}"
    script = f'{opened} && {mounts} && shift && exec {become} "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(folder)]
