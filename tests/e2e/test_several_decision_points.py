"""Three decision points at once on one PostgreSQL: sessions, budgets and answers are everybody's, and one may go."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

import bank
from exequatur.client import CallError, Client, Effect, Outcome
from postgres import PASSWORD, Postgres
from stack import OPENER, Process, Stack, free_port, running, until

pytestmark = pytest.mark.conformance


def replicas(stack: Stack, database: Path) -> list[tuple[Process, str]]:
    """Give three decision points in the places of three machines, and where each is reached."""
    made = []
    for name in "abc":
        target, http = f"127.0.0.1:{free_port()}", free_port()
        other = {"--listen": target, "--state": stack.folder / f"state-{name}", "--http": f"127.0.0.1:{http}"}
        kept = [flag for flag in stack.pdp.argv if flag.partition("=")[0] not in (*other, "--health")]
        flags = [f"{flag}={value}" for flag, value in other.items()]
        made.append(
            (Process(name, [*kept, *flags, f"--database={database}"], stack.folder / f"{name}.log", http), target)
        )
    return made


def test_three_decision_points_are_one(database: Path, postgres: Postgres):
    with running() as stack:
        points = replicas(stack, database)
        try:
            for process, _ in points:
                process.start()
            check(stack, points, postgres)
            logs = "".join(process.log.read_text() for process, _ in points)
            assert PASSWORD not in logs
            assert all(not list((stack.folder / f"state-{name}").glob("store.*")) for name in "abc")
        finally:
            for process, _ in points:
                process.kill()


def check(stack: Stack, points: list[tuple[Process, str]], postgres: Postgres) -> None:
    clients = []
    for _, target in points:
        stack.target = target
        clients.append((stack.client(), stack.client(OPENER)))
    (first, opens), (second, other_opens), (third, _) = clients
    limits = {"max_steps": 10**6, "budget_microusd": 3 * bank.DOLLAR, "lifetime": dt.timedelta(hours=1), "scope": ["*"]}
    session = opens.open_session("teller", bank.SIDECAR, **limits)
    pay = {"to": "x", "dollars": 1}
    paid = first.authorize("bank/pay", pay, agent="teller", idempotency_key="k")
    again = third.authorize("bank/pay", pay, agent="teller", idempotency_key="k")
    assert (paid.effect, again.effect, paid.session) == (Effect.ALLOW, Effect.ALLOW, session.id)
    assert again.decision_id == paid.decision_id
    assert second.settle(paid.decision_id, Outcome.EXECUTED) == bank.DOLLAR
    effects = [each.authorize("bank/pay", pay, agent="teller").effect for each in (second, third, first)]
    assert effects == [Effect.ALLOW, Effect.ALLOW, Effect.DENY], "three dollars, whoever is asked"
    with pytest.raises(CallError):
        other_opens.open_session("teller", bank.SIDECAR, **limits)

    bank.put(stack.folder, 2)  # all of them bring the newer one, and one that is started again serves it at once
    for client, _ in clients:
        until(lambda client=client: looks(client) == 2, 60, every_s=0.2)
    for (process, _), (client, _) in zip(points, clients, strict=True):
        assert process.stop() == 0
        process.start()
        until(lambda client=client: looks(client) == 2, 60, every_s=0.2)

    postgres.stop()
    try:
        denied = second.authorize("bank/look", {"account": "7"}, agent="teller")
        assert denied.effect is Effect.DENY
        assert denied.reasons[0].text == "the state could not be read or written"
    finally:
        postgres.start()
    for client, _ in clients:
        until(lambda client=client: looks(client) == 2, 60, every_s=0.2)
        client.close()
    opens.close()
    other_opens.close()


def looks(client: Client) -> int:
    """Have the agent look, and give the sequence that allows it; 0 where nothing does."""
    try:
        decision = client.authorize("bank/look", {"account": "7"}, agent="teller")
    except CallError:
        return 0
    return decision.bundle_sequence if decision.effect is Effect.ALLOW else 0
