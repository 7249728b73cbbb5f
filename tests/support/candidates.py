"""Candidates for tests of what is tried beside a policy, also such as fail, each in its own way."""

from __future__ import annotations

from judging import PERMIT, Scripted, says, snapshot
from pdp.engine.manifest import EngineSpec, Role
from pdp.engine.rego import RegoEngine
from pdp.model import Effect
from policies import NOW, rego

CANDIDATE = b"\2" * 32
FUEL = """package exequatur
decision := {"deny": deny}
deny contains "counted" if count([x | x := numbers.range(1, 1000000000)[_]; x % 2 == 0]) < 0
"""


def candidate(answer=PERMIT, **changes):
    return snapshot(answer, **{"digest": CANDIDATE, "sequence": 8, **changes})


def failing(kind):
    """Give a candidate that fails in its own way."""

    class Panic(BaseException):
        pass

    def raises(_):
        raise RuntimeError("c4n4ry")

    def panics(_):
        raise Panic("c4n4ry")

    if kind == "takes its fuel":
        role = EngineSpec("rego", Role.RESTRICT, "exequatur/decision")
        engine = RegoEngine.load(rego(FUEL), {}, role.entrypoint, role=role.role)
        return candidate(engines=((EngineSpec("cedar", Role.DECIDE), Scripted(PERMIT)), (role, engine)))
    return {
        "raises": candidate(raises),
        "panics": candidate(panics),
        "says nothing": candidate(lambda _: None),
        "has expired": candidate(says(Effect.DENY), expires_at=NOW),
    }[kind]


FAILURES = ("raises", "panics", "says nothing", "takes its fuel", "has expired")
