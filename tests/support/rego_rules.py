"""Rego rules for tests of what runs them, all those of a test file in one module."""

from __future__ import annotations

import functools
from typing import Any

from pdp.engine.rego import RegoEngine, compile_module
from policies import compiled


class Rules:
    """Rego rules of a test file, compiled together when first needed: thirty cost little more than one.

    Each is a package of its own, with an entry point of its own; nothing of one can be seen from another.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.sources: dict[str, str] = {}

    def add(self, source: str) -> str:
        """Take what stands below a `package` line and says what `decision` is; gives its entry point."""
        assert "module" not in self.__dict__, "add rules where the file is read: these are compiled already"
        package = f"rule_{len(self.sources)}"
        self.sources[f"{package}.rego"] = f"package {package}\n{source}"
        return f"{package}/decision"

    @functools.cached_property
    def module(self) -> tuple[bytes, bytes]:
        """All of them as `policy.wasm`, and what `compile_module` made of it."""
        wasm = compiled(self.sources, *(name.replace(".rego", "/decision") for name in self.sources))
        return wasm, compile_module(wasm)

    def engine(self, entrypoint: str, data: dict[str, Any] | None = None, **options: Any) -> RegoEngine:
        """Give an engine of its own for one of them."""
        wasm, machine_code = self.module
        return RegoEngine.load(wasm, data or {}, entrypoint, machine_code, **options)
