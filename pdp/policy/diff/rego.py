"""Two sets of Rego rules, and the data that they read.

Rules: a rule is what OPA's syntax tree says of it, with what its imports mean: comments, form, order, and the file that
it stands in are no part of that. What a rule that is another one does, nobody guesses. Where both modules are the same
to the byte, so is what they answer, whatever the sources look like; where they are not, each must be what its own
sources give.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from exequatur.schemas import escape
from exequatur.trust.canonical import Json, parse
from pdp.bundle.build import compile_rego
from pdp.engine import rego
from pdp.engine.reading import BUNDLE_JSON, sentence
from pdp.engine.snapshot import DATA_FILE
from pdp.policy.diff.change import Change, Direction, in_both, listed
from pdp.policy.opening import Opened
from pdp.policy.rego_source import ENGINES, Rego

_CHANGED, _NEUTRAL = Direction.CHANGED, Direction.NEUTRAL
_MOST: Final = 100
"""Places in the data that are named; of more, each member at the top is."""
_SHOWN: Final = 40  # characters of a value
_CAME: Final = 3  # items of a list that are named


def rules(old: Opened, new: Opened, *, packed: tuple[bool, bool]) -> Iterator[Change]:
    """Compare the Rego of two bundles that both have some; `packed` says which were bundles before they came here.

    Raises `OpaError` and `PolicyError`.
    """
    sources = [{name: data for name, data in each.files.items() if name.endswith(".rego")} for each in (old, new)]
    modules = [each.files.get(rego.FILE) for each in (old, new)]
    if not all(sources) or (modules[0] == modules[1] and (modules[0] is not None or sources[0] == sources[1])):
        return
    before, after = _rules(old, *sources), _rules(new, *reversed(sources))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            what = "is new" if name not in before else "is gone" if name not in after else "is another one"
            yield Change(f"rego:{name}", _CHANGED, f"the rule {what}")
    for each, module, was_packed, side in zip((old, new), modules, packed, ("old", "new"), strict=True):
        if was_packed and module is not None and _compiled(each) != module:
            text = f"the {side} bundle's module is not what its sources give with this `opa`: build it again"
            yield Change(f"rego:{side}:{rego.FILE}", _CHANGED, text)


def _compiled(opened: Opened) -> bytes:
    spec = next(spec for spec, _ in opened.snapshot.engines if spec.engine == rego.ENGINE)
    return compile_rego(opened.files, spec.entrypoint, opened.opa)


def _rules(opened: Opened, mine: Mapping[str, bytes], other: Mapping[str, bytes]) -> dict[str, Counter[str]]:
    """Give the rules of the files that are not the same in both bundles, by name: several may have one."""
    found: dict[str, Counter[str]] = {}
    with opened.rego() as source:
        for file in sorted(mine):
            if source is not None and mine[file] != other.get(file):
                for name, said in _of_module(source, file):
                    found.setdefault(name, Counter())[said] += 1
    return found


def _of_module(source: Rego, file: str) -> Iterator[tuple[str, str]]:
    module = source.module(file)
    package = ".".join(str(part["value"]) for part in module["package"]["path"][1:])
    imports = dict(map(_import, module.get("imports", [])))
    for rule in module.get("rules", []):
        head = rule["head"]
        name = ".".join(str(part["value"]) for part in head["ref"]) if "ref" in head else str(head.get("name", ""))
        names = set(_names(rule))
        used = {alias: path for alias, path in imports.items() if alias in names}
        entry = _entry(head.get("key"))
        yield f"{package}.{name}#{entry}" if entry else f"{package}.{name}", json.dumps([rule, used], sort_keys=True)


def _entry(key: Any) -> str:
    """Give the `id` of the entry that a rule adds to a set, as `deny contains {"id": "x"}` does; empty without."""
    members = key["value"] if isinstance(key, dict) and key.get("type") == "object" else ()
    return next((str(value["value"]) for name, value in members if name.get("value") == "id"), "")


def _import(value: Mapping[str, Any]) -> tuple[str, str]:
    path = [str(part["value"]) for part in value["path"]["value"]]
    return str(value.get("alias") or path[-1]), ".".join(path)


def _names(node: Any) -> Iterator[str]:
    """Give the variables in a syntax tree."""
    if isinstance(node, list):
        for item in node:
            yield from _names(item)
    elif isinstance(node, dict):
        if node.get("type") == "var":
            yield str(node["value"])
        for member in node.values():
            yield from _names(member)


def data(old: Opened, new: Opened) -> Iterator[Change]:
    """Compare the data that Rego reads; where none does, there is nothing to compare."""
    if not all(any(spec.engine in ENGINES for spec, _ in each.snapshot.engines) for each in (old, new)):
        return
    before, after = (parse(each.files.get(DATA_FILE, b"{}"), BUNDLE_JSON) for each in (old, new))
    found = list(_different("", before, after))
    if len(found) <= _MOST:
        yield from (Change(f"data:{at}", _CHANGED, text) for at, text in found)
    else:
        tops = Counter(at.split("/")[0] for at, _ in found)
        for top, count in tops.items():
            yield Change(f"data:{top}", _CHANGED, f"{count:,} values in it are other ones")


def _different(at: str, old: Json, new: Json) -> Iterator[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inside = f"{at}/{escape(name)}" if at else escape(name)
            if name not in old or name not in new:
                yield inside, f"it is {'new' if name in new else 'gone'}: {_short(new.get(name, old.get(name)))}"
            else:
                yield from _different(inside, old[name], new[name])
    elif isinstance(old, list) and isinstance(new, list):
        if _exact(old) != _exact(new):
            yield at, _items(old, new)
    elif _exact(old) != _exact(new):
        yield at, f"{_short(old)} → {_short(new)}"


def _items(old: list[Json], new: list[Json]) -> str:
    gone, came = (list(map(_cut, items)) for items in in_both(map(_exact, old), map(_exact, new)))
    parts = [f"{listed(came, _CAME)} added"] * bool(came) + [f"{listed(gone, _CAME)} removed"] * bool(gone)
    return ", ".join(parts) or "the same in another order"


def _exact(value: Json) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(value: Json) -> str:
    return f"`{_cut(_exact(value))}`"


def _cut(text: str) -> str:
    shown = sentence(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
