"""What stands before a policy's conditions: its effect, its scope and its annotations, as Cedar reads them.

Rules: Cedar reads, and nobody else. Most heads differ in their strings alone, and no string changes what Cedar makes of
the rest; so each form is read once a bundle, with a number in place of each string, and the strings are put back. A
string with an escape in it is Cedar's to read, and its head is read by itself. Reading a head costs Cedar 0.15 ms, and
a bundle may have twenty thousand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import cedarpy
from cedarpy import pst

from pdp.engine.cedar_text import Source, Tokens

_Form: TypeAlias = tuple[str, ...]
"""A head's text, cut where its strings are."""


class Heads:
    """Reads the heads of one bundle."""

    def __init__(self) -> None:
        """Know no form yet."""
        self._known: dict[_Form, tuple[pst.Template, bool]] = {}

    def read(self, source: Source, head: Tokens) -> tuple[pst.Template, bool]:
        """Give a statement's effect, scope and annotations, which are said in `head`, and whether it is a template.

        Raises `ValueError` for what is no head of one policy.
        """
        texts: list[str] = []
        form: list[str] = []
        start = at = source.tokens[0].start()
        for token in head:
            if token.lastgroup == "text":
                form.append(source.text[at - start : token.start() - start])
                texts.append(token[0][1:-1])
                at = token.end()
        form.append(f"{source.text[at - start : head[-1].end() - start]};")
        if any("\\" in text for text in texts):
            return _read(f"{source.up_to(head[-1])};")
        known = self._known.get(tuple(form))
        if known is None:
            whole = form[0] + "".join(f'"{number}"{part}' for number, part in enumerate(form[1:]))
            known = self._known[tuple(form)] = _read(whole)
        return _filled(known[0], texts), known[1]


def _read(text: str) -> tuple[pst.Template, bool]:
    found = cedarpy.policies_to_pst(text)
    policies = [*found.static_policies.values(), *found.templates.values()]
    if len(policies) != 1:
        raise ValueError("exactly one policy is needed here")
    return policies[0], bool(found.templates)


def _filled(head: pst.Template, texts: list[str]) -> pst.Template:
    """Put the strings back where their numbers are: in annotations and in the ids of entities."""
    if not texts:
        return head
    return replace(
        head,
        principal=_scope(head.principal, texts),
        action=_action(head.action, texts),
        resource=_scope(head.resource, texts),
        annotations={name: texts[int(value)] if value else value for name, value in head.annotations.items()},
    )


def _scope(constraint: pst.PrincipalOrResourceConstraint, texts: list[str]) -> pst.PrincipalOrResourceConstraint:
    if isinstance(constraint, (pst.ScopeAny, pst.ScopeIs)) or isinstance(constraint.entity, pst.Slot):
        return constraint
    return replace(constraint, entity=_entity(constraint.entity, texts))


def _action(constraint: pst.ActionConstraint, texts: list[str]) -> pst.ActionConstraint:
    if isinstance(constraint, pst.ActionEq):
        return pst.ActionEq(_entity(constraint.entity, texts))
    if isinstance(constraint, pst.ActionIn):
        return pst.ActionIn(tuple(_entity(entity, texts) for entity in constraint.entities))
    return constraint


def _entity(entity: pst.EntityUid, texts: list[str]) -> pst.EntityUid:
    return pst.EntityUid(entity.type, texts[int(entity.id)])
