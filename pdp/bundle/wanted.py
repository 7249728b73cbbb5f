"""What a case wants of a decision, and how the decision differs from it.

Rules: what is not said is not looked at, but the effect always is; each difference names the member, what was wanted
and what there was; nothing here holds what the caller sent in the arguments, since decisions and records do not.

`kind`, each of `policies` and each of `reasons` must be found among the decision's reasons, and none of `not_policies`;
`error` must be inside one of its errors; `obligations` and `approvers` are exact, in any order; of `record` each member
given must be there: an object may have others too, each item of a list must be found, and `[]` is the empty list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exequatur.trust.canonical import Json, canonical
from pdp.engine.reading import Fields, sentence
from pdp.judge import Outcome
from pdp.model import Decision, Effect, Obligation, Reason, ReasonKind

EFFECTS: Final = {effect.name.lower(): effect for effect in Effect}
KINDS: Final = {kind.name.lower(): kind for kind in ReasonKind}
_TEXT: Final = 4096


@dataclass(frozen=True, slots=True)
class Like:
    """What one reason must be; what is empty is not looked at. `text` is a part of the reason's."""

    kind: str = ""
    policy: str = ""
    engine: str = ""
    owasp: str = ""
    text: str = ""

    def holds(self, reason: Reason) -> bool:
        """Whether this reason is like it."""
        return (
            self.kind in ("", reason.kind.name.lower())
            and self.policy in ("", reason.policy)
            and self.engine in ("", reason.engine)
            and self.owasp in ("", reason.owasp)
            and self.text in reason.text
        )

    def __str__(self) -> str:
        """Its members, in words."""
        members = (f"{name} `{getattr(self, name)}`" for name in ("kind", "policy", "engine", "owasp", "text"))
        return ", ".join(sentence(text) for text in members if not text.endswith(" ``"))


@dataclass(frozen=True, slots=True)
class Want:
    """What a decision must be. What is None or empty is not looked at."""

    effect: Effect
    kind: ReasonKind | None = None
    policies: tuple[str, ...] = ()
    not_policies: tuple[str, ...] = ()
    reasons: tuple[Like, ...] = ()
    obligations: tuple[tuple[str, Json], ...] | None = None
    """Ids with parameters; None for parameters that are not looked at."""
    approvers: tuple[str, ...] | None = None
    error: str = ""
    record: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One member that is not what was wanted."""

    member: str
    wanted: str
    got: str


def read_want(where: str, value: Json) -> Want:
    """Read a case's `want`; `where` opens each error. Raises `PolicyError`."""
    fields = Fields(where, value)
    effect, kind = fields.take("effect"), fields.take("kind")
    if not isinstance(effect, str) or effect not in EFFECTS:
        raise fields.error("effect", _one_of(EFFECTS))
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise fields.error("kind", _one_of(KINDS))
    error, record = fields.take("error", ""), fields.take("record")
    if not isinstance(error, str) or len(error) > _TEXT:
        raise fields.error("error", f"a text of at most {_TEXT} characters")
    if record is not None and not isinstance(record, dict):
        raise fields.error("record", "an object")
    want = Want(
        effect=EFFECTS[effect],
        kind=KINDS.get(str(kind)),
        policies=fields.texts("policies"),
        not_policies=fields.texts("not_policies"),
        reasons=_reasons(fields),
        obligations=_obligations(fields),
        approvers=None if fields.take("approvers") is None else fields.texts("approvers"),
        error=error,
        record=record,
    )
    fields.close()
    return want


def differences(want: Want, outcome: Outcome) -> tuple[Difference, ...]:
    """Give each difference, in the order in which people ask; empty if the decision is what was wanted."""
    return tuple(_differences(want, outcome.decision, outcome.record))


def in_words(want: Want) -> str:
    """Give the wish in one line."""
    rest = [want.kind.name.lower()] if want.kind is not None else []
    rest += [f"`{policy}`" for policy in want.policies]
    rest += [f"not `{policy}`" for policy in want.not_policies]
    rest += [f"a reason with {like}" for like in want.reasons]
    if want.obligations is not None:
        rest.append(f"obligations {_listed(name for name, _ in want.obligations)}")
    if want.approvers is not None:
        rest.append(f"approvers {_listed(want.approvers)}")
    rest += [f"the error `{sentence(want.error)}`"] if want.error else []
    rest += ["its record"] if want.record is not None else []
    return want.effect.name.lower() + (f" ({', '.join(rest)})" if rest else "")


def reasons_in_words(decision: Decision) -> str:
    """Give the decision in one line."""
    reasons = "; ".join(
        f"{reason.kind.name.lower()}{f' by `{reason.policy}`' if reason.policy else ''}: {reason.text}"
        for reason in decision.reasons
    )
    return f"{decision.effect.name.lower()} ({reasons})"


def _one_of(words: Mapping[str, object]) -> str:
    return "one of " + ", ".join(f"`{word}`" for word in words)


def _reasons(fields: Fields) -> tuple[Like, ...]:
    listed = fields.take("reasons", [])
    found = []
    for item in listed if isinstance(listed, list) else [listed]:
        members = {"text": item} if isinstance(item, str) else item
        if not isinstance(members, dict) or not members or not all(isinstance(v, str) and v for v in members.values()):
            raise fields.error("reasons", "a list of texts, or of objects of texts")
        if members.get("kind", "error") not in KINDS:
            raise fields.error("reasons", f"of a `kind` that is {_one_of(KINDS)}")
        found.append(Like(**members))
    return tuple(found)


def _obligations(fields: Fields) -> tuple[tuple[str, Json], ...] | None:
    listed = fields.take("obligations")
    if listed is None:
        return None
    found: list[tuple[str, Json]] = []
    for item in listed if isinstance(listed, list) else [None]:
        members = {"id": item} if isinstance(item, str) else item
        if not isinstance(members, dict) or not isinstance(members.get("id"), str):
            raise fields.error("obligations", "a list of ids, or of objects with `id` and `parameters`")
        found.append((str(members["id"]), members.get("parameters")))
    return tuple(sorted(found, key=lambda pair: pair[0]))


def _differences(want: Want, decision: Decision, record: Mapping[str, Json]) -> Iterator[Difference]:
    if decision.effect is not want.effect:
        yield Difference("effect", want.effect.name.lower(), decision.effect.name.lower())
    yield from _other_reasons(want, decision.reasons)
    if want.obligations is not None and not _same_obligations(want.obligations, decision.obligations):
        got = [_obligation(each.id, dict(each.parameters)) for each in decision.obligations]
        yield Difference("obligations", _listed(_obligation(*each) for each in want.obligations), _listed(got))
    if want.approvers is not None and set(want.approvers) != set(decision.approvers):
        yield Difference("approvers", _listed(want.approvers), _listed(decision.approvers))
    if want.error and not any(want.error in error for error in decision.errors):
        yield Difference("error", f"`{sentence(want.error)}`", "; ".join(decision.errors) or "no error")
    if want.record is not None:
        yield from _unlike("record", want.record, record)


def _other_reasons(want: Want, reasons: tuple[Reason, ...]) -> Iterator[Difference]:
    policies = {reason.policy for reason in reasons}
    named = _listed(sorted(policies - {""}))
    if want.kind is not None and all(reason.kind is not want.kind for reason in reasons):
        yield Difference("kind", want.kind.name.lower(), _listed(reason.kind.name.lower() for reason in reasons))
    if missing := set(want.policies) - policies:
        yield Difference("policies", _listed(sorted(missing)), named)
    if present := set(want.not_policies) & policies:
        yield Difference("not_policies", f"without {_listed(sorted(present))}", named)
    for like in want.reasons:
        if not any(like.holds(reason) for reason in reasons):
            yield Difference("reasons", str(like), "; ".join(_in_words(reason) for reason in reasons))


def _same_obligations(wanted: tuple[tuple[str, Json], ...], got: tuple[Obligation, ...]) -> bool:
    given = {each.id: canonical(dict(each.parameters)) for each in got}
    return sorted(given) == [name for name, _ in wanted] and all(
        parameters is None or canonical(parameters) == given[name] for name, parameters in wanted
    )


def _unlike(member: str, wanted: Json | Mapping[str, Json], got: Json | Mapping[str, Json]) -> Iterator[Difference]:
    """Give what of a record is not as wanted."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for name, value in wanted.items():
            if name not in got:
                yield Difference(f"{member}.{name}", _short(value), "no such member")
            else:
                yield from _unlike(f"{member}.{name}", value, got[name])
    elif isinstance(wanted, list) and wanted and isinstance(got, list):
        for number, value in enumerate(wanted):
            if all(any(_unlike("", value, item)) for item in got):
                yield Difference(f"{member}.{number}", _short(value), f"not among {_short(got)}")
    elif canonical(_plain(wanted)) != canonical(_plain(got)):
        yield Difference(member, _short(wanted), _short(got))


def _plain(value: Json | Mapping[str, Json]) -> Json:
    return dict(value) if isinstance(value, Mapping) else value


def _short(value: Json | Mapping[str, Json]) -> str:
    return sentence(canonical(_plain(value)).decode("utf-8"))


def _obligation(name: str, parameters: Json) -> str:
    return f"{name} {_short(parameters)}" if parameters else name


def _in_words(reason: Reason) -> str:
    return f"{reason.kind.name.lower()} `{reason.policy}`: {reason.text}" if reason.policy else reason.text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{sentence(name)}`" for name in names) or "none"
