"""The same surroundings for every test: `opa` where `make` has put it, unless the environment says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ["COLUMNS"] = "140"  # as wide as a terminal, whoever runs the tests
os.environ.setdefault("EXEQUATUR_OPA", str(_CACHE / "exequatur" / "bin" / "opa-1.22.0"))
