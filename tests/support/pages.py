"""The pages that people read, as far as a machine can: their `sh` blocks, run as their readers run them.

A comment before a block says what is special: `<!-- exit 1 -->` that its last command answers no, `<!-- not run: why -->`
that it is for another place, `<!-- in the background -->` that it is a daemon.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
AUDIT = ROOT / "docs" / "answer-an-auditor.md"
"""The page that runs the demo: whoever tests the demo walks it, so that it runs once."""

BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n)?```sh\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Give each `sh` block of `page`: what the comment before it says, and its text."""
    return [(match["note"] or "", match["text"]) for match in BLOCK.finditer(page.read_text())]


def lay(desk: Path) -> str:
    """Put on `desk` what blocks expect to find; give the PATH with which they find their programs."""
    for name in ("bundles", "policies", "charts"):
        shutil.copytree(ROOT / name, desk / name)
    programs = desk / ".bin"
    programs.mkdir()
    (programs / "helm").symlink_to(os.environ["EXEQUATUR_HELM"])
    return f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}"


def walk(page: Path, **environ: str) -> list[str]:
    """Run all blocks of `page` on a new desk, each as it is meant to end; gives what each printed, but for daemons."""
    said: list[str] = []
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ex-", ignore_cleanup_errors=True) as desk:
        env = {**os.environ, "PATH": lay(Path(desk)), "HOME": desk, "NO_COLOR": "1", **environ}
        try:
            for note, text in blocks(page):
                if note == "in the background":
                    command = ["bash", "-c", "exec " + text.strip()]
                    running.append(subprocess.Popen(command, cwd=desk, env=env, start_new_session=True))
                elif not note.startswith("not run"):
                    said.append(_run(note, text, desk, env))
        finally:
            for process in running:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
    return said


def _run(note: str, text: str, desk: str, env: dict[str, str]) -> str:
    wanted = int(note.removeprefix("exit ")) if note.startswith("exit ") else 0
    script = f"set -uo pipefail\n{'' if wanted else 'set -e'}\n{text}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=desk, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == wanted, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout
