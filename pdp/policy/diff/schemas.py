"""Which arguments a tool takes: two input schemas, as they are enforced.

Rules: wider is what takes something that was refused; of keywords whose effect is not plain, any difference is
`CHANGED`; what says nothing about validity (titles, descriptions, defaults) is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from pdp.policy.diff.change import Direction, in_both, listed

Difference: TypeAlias = tuple[Direction, str]

_SILENT: Final = frozenset({"title", "description", "default", "examples", "$comment", "deprecated"})
_SMALLEST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_LARGEST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_OPENERS: Final = ("additionalProperties", "unevaluatedProperties")
_WIDER, _TIGHTER, _CHANGED = Direction.WIDER, Direction.TIGHTER, Direction.CHANGED


def differences(old: Any, new: Any, at: str = "") -> Iterator[Difference]:
    """Give each difference, with the argument that it is about."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        if old != new:
            yield _CHANGED, _said(at, "another schema")
        return
    for keyword in sorted((old.keys() | new.keys()) - _SILENT):
        one, other = old.get(keyword), new.get(keyword)
        if one != other:
            yield from _READERS.get(keyword, _unknown)(keyword, old, new, at)


def _properties(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    before, after = old.get(keyword, {}), new.get(keyword, {})
    gone, came = in_both(before, after)
    if came:
        yield (_WIDER if _closed(old) else _CHANGED), _said(at, f"takes {listed(came)} too")
    if gone:
        yield (_TIGHTER if _closed(new) else _CHANGED), _said(at, f"does not take {listed(gone)} any more")
    for name in before:
        if name in after:
            yield from differences(before[name], after[name], f"{at}.{name}" if at else name)


def _closed(node: Mapping[str, Any]) -> bool:
    return any(node.get(keyword) is False for keyword in _OPENERS) and "patternProperties" not in node


def _required(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    gone, came = in_both(old.get(keyword, ()), new.get(keyword, ()))
    if gone:
        yield _WIDER, _said(at, f"does not need {listed(gone)} any more")
    if came:
        yield _TIGHTER, _said(at, f"needs {listed(came)}")


def _enum(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    gone, came = in_both(old.get(keyword, ()), new.get(keyword, ()))
    if keyword not in new or (keyword in old and came):
        yield _WIDER, _said(at, f"takes {listed(came)} too" if keyword in new else "takes any value")
    if keyword not in old or (keyword in new and gone):
        yield _TIGHTER, _said(at, "takes certain values alone" if keyword not in old else f"refuses {listed(gone)}")


def _type(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    if keyword not in old or keyword not in new:
        direction = _TIGHTER if keyword in new else _WIDER
        yield direction, _said(at, "has a type now" if keyword in new else "may be of any type")
        return
    before, after = _types(old[keyword]), _types(new[keyword])
    if after - before:
        yield _WIDER, _said(at, f"may be {listed(sorted(after - before))} too")
    if before - after:
        yield _TIGHTER, _said(at, f"may not be {listed(sorted(before - after))} any more")


def _types(value: Any) -> set[str]:
    found = set(value) if isinstance(value, list) else {value}
    return found | ({"integer"} if "number" in found else set())


def _bound(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    one, other = old.get(keyword), new.get(keyword)
    wider = other is None if one is None or other is None else (other < one) is (keyword in _SMALLEST)
    yield (_WIDER if wider else _TIGHTER), _said(at, f"`{keyword}`: {_or_none(one)} → {_or_none(other)}")


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)


def _inside(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    if keyword not in old or keyword not in new:
        direction = _TIGHTER if keyword in new else _WIDER
        yield direction, _said(at, f"`{keyword}` is {'new' if keyword in new else 'gone'}")
    else:
        yield from differences(old[keyword], new[keyword], f"{at}[]")


def _opener(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    if old.get(keyword) is False and not _closed(new):
        yield _WIDER, _said(at, "takes members that it does not list")
    elif new.get(keyword) is False and not _closed(old):
        yield _TIGHTER, _said(at, "takes the members alone that it lists")
    elif not (_closed(old) and _closed(new)):
        yield _CHANGED, _said(at, f"another `{keyword}`")


def _present(keyword: str, old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    if keyword in old and keyword in new:
        yield _CHANGED, _said(at, f"another `{keyword}`")
    else:
        direction = _TIGHTER if keyword in new else _WIDER
        yield direction, _said(at, f"`{keyword}` is {'new' if keyword in new else 'gone'}")


def _unknown(keyword: str, _old: Mapping[str, Any], _new: Mapping[str, Any], at: str) -> Iterator[Difference]:
    yield _CHANGED, _said(at, f"another `{keyword}`")


def _said(at: str, text: str) -> str:
    return f"`{at}` {text}" if at else text


_Reader: TypeAlias = Callable[[str, Mapping[str, Any], Mapping[str, Any], str], Iterator[Difference]]
_READERS: Final[Mapping[str, _Reader]] = {
    "properties": _properties,
    "required": _required,
    "enum": _enum,
    "type": _type,
    "items": _inside,
    "pattern": _present,
    "const": _present,
    **dict.fromkeys((*_SMALLEST, *_LARGEST), _bound),
    **dict.fromkeys(_OPENERS, _opener),
}


def words(schema: Any, at: str = "") -> dict[str, Any]:
    """Give what a schema says to its readers, by place: a model reads it, too."""
    found: dict[str, Any] = {}
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if name in _SILENT and not isinstance(value, Mapping):
                found[f"{at}/{name}"] = value
            else:
                found.update(words(value, f"{at}/{name}"))
    elif isinstance(schema, list):
        for number, item in enumerate(schema):
            found.update(words(item, f"{at}/{number}"))
    return found
