"""Where the files are that come with the command: the development bundle and its keys.

Rules: the same in a wheel, which carries them inside the package, and in an editable install, which reads the tree.
"""

from __future__ import annotations

from pathlib import Path


def data_dir() -> Path:
    """Give the folder that holds `coding-agent.tar.gz` and `keys`; raises `FileNotFoundError` where it is missing."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "data", package.parent / "bundles"):
        if (folder / "keys").is_dir():
            return folder
    raise FileNotFoundError("the development bundle did not come with this installation: install it again")
