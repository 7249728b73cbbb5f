"""Several decision points on one database: one session, one budget, one answer to a key, whoever is asked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import replica
from conveying import desk
from judging import action
from pdp.control.opening import open_store
from pdp.control.sessions import Fate, WrongStateError
from pdp.model import Effect, ReasonKind

ALLOW, DENY = Effect.ALLOW, Effect.DENY


async def test_a_session_that_one_opened_is_everybodys(tmp_path, database):
    async with (
        desk(tmp_path, database=database, name="a") as first,
        desk(tmp_path, database=database, name="b") as second,
    ):
        session = await first.open(budget_microusd=250)
        (held,) = await second.ask(action("git/push", idempotency_key="k"))
        (again,) = await first.ask(action("git/push", idempotency_key="k"))
        assert again.repeated
        assert again.decision == held.decision
        with pytest.raises(WrongStateError, match="open session already"):
            await second.open()
        assert await first.settle(held.decision.id, cost=100) == 100
        answers = [(await parts.ask(action("git/push")))[0].decision for parts in (first, second, first)]
        assert [each.effect for each in answers] == [ALLOW, DENY, DENY], "there was room for one more"
        await second.close(session.id)
        (over,) = await first.ask(action())
        assert over.decision.effect is DENY
        assert first.stored(session.id) == second.stored(session.id)


async def test_three_who_are_asked_at_once_never_overspend(tmp_path, database, caplog):
    names = ("a", "b", "c")
    async with (
        desk(tmp_path, database=database, name=names[0]) as first,
        desk(tmp_path, database=database, name=names[1]) as second,
        desk(tmp_path, database=database, name=names[2]) as third,
    ):
        session = await first.open(max_steps=1000, budget_microusd=2500)

        async def ask(parts):  # one after the other, so that each has many rounds of its own
            return [(await parts.ask(action("git/push")))[0].decision for _ in range(20)]

        decisions = [*itertools.chain(*await asyncio.gather(ask(first), ask(second), ask(third)))]
        assert [each.effect for each in decisions].count(ALLOW) == 25
        stored = first.stored(session.id)
        assert (stored.steps, stored.reserved_microusd) == (25, 2500)
        answers = await asyncio.gather(
            *(parts.ask(action(idempotency_key=f"k{n}")) for n in range(10) for parts in (first, second, third))
        )
        assert len({answer.decision.id for (answer,) in answers}) == 10, "one answer to one key"
    assert caplog.text == "", "a lost race is no failure"


async def test_a_database_that_is_away_is_a_denial_with_its_reason_and_serves_again_by_itself(
    tmp_path, database, postgres
):
    async with desk(tmp_path, database=database) as parts:
        session = await parts.open()
        postgres.stop()
        try:
            began = time.monotonic()
            (denied,) = await parts.ask(action("git/push"))
            assert time.monotonic() - began < 10
            assert denied.decision.effect is DENY
            assert denied.decision.reasons[0].kind is ReasonKind.ERROR
            assert denied.decision.reasons[0].text == "the state could not be read or written"
            assert [record["effect"] for record in parts.records("decision")] == ["deny"]
        finally:
            postgres.start()
        while (await parts.ask(action("git/push")))[0].decision.effect is not ALLOW:
            pass
        assert parts.stored(session.id).steps == 1


@contextlib.contextmanager
def begun(folder: Path, database: Path, names: str, calls: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start replicas, and have all of them begin at once."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(replica.__file__).parent), *sys.path])}
    with contextlib.ExitStack() as stack, (folder / "errors").open("w") as errors:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True, "env": env}
        commands = [[sys.executable, replica.__file__, str(folder), str(database), name, str(calls)] for name in names]
        started = [stack.enter_context(subprocess.Popen(command, **pipes)) for command in commands]
        for process in started:
            process.stdout.readline()
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        yield started


def check(database: Path, said: list[list[str]], budget: int) -> None:
    """Hold what was said against what is stored: no budget is overspent, nothing that was said is gone."""
    store = open_store(database.parent, database)
    with store.reading() as view:
        sessions = view.open_sessions([("default", "coder", f"i{n}") for n in range(replica.SESSIONS)]).values()
        held = view.reservations({line[0] for line in said if line[1] == "ALLOW"})
        charged: dict[str, int] = {}
        rows = view._connection.exec_driver_sql(
            "SELECT session, amount_microusd, fate, charged_microusd FROM reservations"
        )
        for row in rows:
            money = row.amount_microusd if row.fate == Fate.HELD.value else row.charged_microusd
            charged[row.session] = charged.get(row.session, 0) + money
    store.close()
    for session in sessions:
        assert session.spent_microusd + session.reserved_microusd == charged[session.id] <= budget
        assert session.steps == sum(session.calls.values())
    allowed = [line for line in said if line[1] == "ALLOW"]
    assert allowed
    free = {line[0] for line in allowed} - held.keys()
    assert not free, "an action that was allowed and of which no more is known"
    assert len({line[0] for line in allowed}) <= sum(session.steps for session in sessions)
    for key in {line[2] for line in said} - {"-"}:
        answers = {line[0] for line in said if line[2] == key and line[1] == "ALLOW"}
        assert len(answers) <= 1, "one answer to one key"


@pytest.mark.conformance
@pytest.mark.parametrize("crash", ["nobody", "replica", "server"])
async def test_three_processes_and_two_thousand_calls_never_overspend(tmp_path, database, postgres, crash):
    budget = 8000
    async with desk(tmp_path, database=database, name="opener") as parts:
        for number in range(replica.SESSIONS):
            await parts.open(instance=f"i{number}", max_steps=100_000, budget_microusd=budget)
    with begun(tmp_path, database, "abc", 667) as replicas:
        lines = [replicas[0].stdout.readline() for _ in range(100)]  # while the others are about as far
        if crash == "replica":
            replicas[0].kill()
        elif crash == "server":
            postgres.stop(signal.SIGKILL)
            postgres.start()
        lines += [line for process in replicas for line in process.stdout]
        codes = [process.wait() for process in replicas]
    said = [line.split() for line in lines if len(line.split()) == 3]
    if crash == "nobody":
        assert len(said) == 3 * 667
    if crash != "replica":
        assert codes == [0, 0, 0], (tmp_path / "errors").read_text()
    check(database, said, budget)
