"""All that two bundles say, compared: what they declare, and their policies."""

from __future__ import annotations

from collections.abc import Iterator

from pdp.engine.cedar import ENGINE
from pdp.engine.statements import read_statements
from pdp.policy.diff import cedar, declared, rego, tools
from pdp.policy.diff.change import Change
from pdp.policy.diff.mentions import Mentions
from pdp.policy.opening import Opened


def changes(old: Opened, new: Opened, *, packed: tuple[bool, bool]) -> Iterator[Change]:
    """Give each change; `packed` says which came as bundles. Raises `PolicyError`, and `OpaError` where Rego differs.

    A change whose direction hangs on what the policies name is held against the policies of both.
    """
    statements = [read_statements(each.files) for each in (old, new)]
    words = Mentions((old.files, new.files), (*statements[0], *statements[1]))
    before, after = old.snapshot, new.snapshot
    yield from tools.tools(before.registry, after.registry, words)
    yield from declared.agents(before.agents, after.agents, words)
    yield from declared.limits(before.limits, after.limits)
    yield from declared.settings(before, after)
    if all(any(spec.engine == ENGINE for spec, _ in each.engines) for each in (before, after)):
        yield from cedar.policies(*statements)
    yield from declared.for_opa(old, new)
    yield from rego.rules(old, new, packed=packed)
    yield from rego.data(old, new)
