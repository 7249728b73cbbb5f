"""The pages that people read, as far as a machine can: their `sh` blocks, and what a reader of the checkout has at hand."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
