"""Where `opa` is for every test: where `make` has put it, unless the environment says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("EXEQUATUR_OPA", str(_CACHE / "exequatur" / "bin" / "opa-1.22.0"))
