"""The built-ins that a compiled Rego policy asks of its host, each exactly as OPA 1.22 has it.

Rules: pure, which means no clock, network, environment, randomness or state; whatever could grow is measured before
it is built; an error is an error (`BuiltinError`), which denies, where OPA would let the rule vanish. What is not
here is refused when the bundle is loaded. Each one is compared with a real `opa eval`: tests/support/comparing.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pdp.engine.builtins.values import UNDEFINED, BuiltinError, Undefined, Value

__all__ = ["BUILTINS", "UNDEFINED", "Builtin", "BuiltinError", "builtin"]


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function of values by Rego's name for it."""

    name: str
    arity: int
    """How many values the policy gives."""
    function: Callable[..., Value | Undefined]
    needs_time: bool = False
    """The function is given the decision's time, in ns since 1970, before the policy's values."""


_BUILTINS: dict[str, Builtin] = {}
BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType(_BUILTINS)
"""Each built-in that there is, by name."""


def builtin(name: str, *, needs_time: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of positional `Value`s that gives a `Value` or `UNDEFINED`, or raises `BuiltinError`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in _BUILTINS:
            raise RuntimeError(f"the built-in `{name}` is registered twice")
        arity = len(inspect.signature(function).parameters) - needs_time
        _BUILTINS[name] = Builtin(name, arity, function, needs_time)
        return function

    return register


# Each family registers itself when it is imported, by the decorator above.
from pdp.engine.builtins import (  # noqa: E402, F401
    digests,
    encodings,
    globs,
    graphs,
    nets,
    numbers,
    objects,
    patches,
    regexes,
    strings,
    text,
    times,
    units,
    uris,
    versions,
)
