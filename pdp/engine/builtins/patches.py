"""`json.patch`, as OPA applies it (v1/topdown/json.go) to the tree of edits of edits.py."""

from __future__ import annotations

from typing import Final

from pdp.engine.builtins import builtin
from pdp.engine.builtins.edits import Edits, Path, measure
from pdp.engine.builtins.operands import Meter
from pdp.engine.builtins.values import BuiltinError, RegoObject, Value

_STEPS: Final = 200_000
"""Members that are looked at or built, all operations together: a patch can double the document with each operation."""


@builtin("json.patch")
def patch(document: Value, operations: Value) -> Value:
    """Give a document after a list of operations on it (RFC 6902, and paths into sets).

    Refused: what OPA dies of, such as adding into a document that was replaced whole; more than 200,000 members to
    look at.
    """
    if not isinstance(operations, tuple):
        raise BuiltinError("operand 2 must be an array")
    meter = Meter(_STEPS)
    tree = Edits(document, meter)
    for operation in operations:
        if not isinstance(operation, RegoObject):
            raise BuiltinError("operand 2 must be an array of objects")
        meter.spend()
        _apply(tree, operation, meter)
    return tree.render()


def _apply(tree: Edits, operation: RegoObject, meter: Meter) -> None:
    name, path = _member(operation, "op"), _path(_member(operation, "path"))
    match name:
        case "add":
            tree.insert(path, _member(operation, "value"))
        case "remove":
            tree.delete(path)
        case "replace":
            tree.delete(path)
            tree.insert(path, _member(operation, "value"))
        case "move":
            start = _path(_member(operation, "from"))
            moved = tree.find(start).render()
            tree.delete(start)
            tree.insert(path, moved)
        case "copy":
            tree.insert(path, tree.find(_path(_member(operation, "from"))).render())
        case "test":
            measure(wanted := _member(operation, "value"), meter)
            if tree.find(path).render() != wanted:
                raise BuiltinError("a `test` of the patch failed")
        case _:
            raise BuiltinError("an operation must be one of `add`, `remove`, `replace`, `move`, `copy` and `test`")


def _member(operation: RegoObject, name: str) -> Value:
    if name not in operation:
        raise BuiltinError(f"an operation lacks `{name}`")
    return operation[name]


def _path(value: Value) -> Path:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, str):
        raise BuiltinError("a path must be a string or an array")
    if not value:
        return ()
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in value.lstrip("/").split("/"))
