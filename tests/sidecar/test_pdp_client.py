"""Every failure on the way to the decision point is `NoDecision`, and in time."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from decisions import SERVICES, Decisions
from exequatur.transport import Server
from exequatur.v1 import decision_pb2 as pb
from sidecar import pdp_client
from sidecar.pdp_client import NoDecision, PdpClient
from stack import free_port

REQUEST = pb.AuthorizeRequest(tool="t/x", arguments_json=b"{}")


@pytest.fixture
async def decisions() -> AsyncIterator[tuple[Decisions, PdpClient]]:
    with tempfile.TemporaryDirectory() as folder:
        service = Decisions()
        server = await service.listen(Path(folder) / "pdp.sock")
        client = PdpClient(f"unix:{folder}/pdp.sock", None, unsafe_plaintext=False, timeout_s=0.3)
        yield service, client
        await client.close()
        await server.stop(0)


async def test_a_decision_comes_back_as_it_was_sent(decisions):
    _, client = decisions
    assert (await client.authorize(REQUEST, None)).effect == pb.EFFECT_ALLOW


async def test_the_callers_deadline_is_kept_with_room_for_the_record(decisions):
    service, client = decisions
    with pytest.raises(NoDecision) as error:
        await client.authorize(REQUEST, 0.04)
    assert error.value.code == "DEADLINE_EXCEEDED"
    assert service.asked == []


async def test_a_slow_decision_point_is_none_and_is_asked_once(decisions):
    service, client = decisions

    def rule(request, response):
        async def never():
            await asyncio.sleep(60)

        return never()

    service.rule = rule
    began = time.monotonic()
    with pytest.raises(NoDecision) as error:
        await client.authorize(REQUEST, 10)
    assert error.value.code == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began < 5
    assert len(service.asked) == 1


async def test_an_exception_of_the_decision_point_is_no_decision(decisions):
    service, client = decisions
    service.rule = lambda request, response: RuntimeError("secret")
    with pytest.raises(NoDecision) as error:
        await client.authorize(REQUEST, None)
    assert error.value.code == "INTERNAL"
    assert "secret" not in str(error.value)


async def beginning(service: Decisions, port: int) -> Server:
    server = Server(service.handlers, SERVICES, reuse_port=True)
    server.listen_tcp(f"127.0.0.1:{port}", None)
    await server.start()
    return server


async def test_a_decision_point_that_is_replaced_under_load_costs_no_action_and_judges_none_twice():
    service, port = Decisions(), free_port()
    server = await beginning(service, port)
    clients = [PdpClient(f"127.0.0.1:{port}", None, unsafe_plaintext=True, timeout_s=2) for _ in range(4)]
    answered: list[str] = []
    told: asyncio.Queue[str] = asyncio.Queue()
    ending = asyncio.Event()

    async def agent(number: int) -> None:
        n = 0
        while not ending.is_set():
            name = f"{number}.{(n := n + 1)}"
            await clients[number % 4].authorize(pb.AuthorizeRequest(tool=name, arguments_json=b"{}"), None)
            answered.append(name)
            told.put_nowait(name)

    agents = [asyncio.create_task(agent(number)) for number in range(32)]
    for _ in range(6):
        for _ in range(500):
            await told.get()
        old, server = server, await beginning(service, port)
        await old.stop(5)
    ending.set()
    await asyncio.gather(*agents)
    for client in clients:
        await client.close()
    await server.stop(0)
    assert sorted(request.tool for request in service.asked) == sorted(answered)


async def test_an_outage_costs_one_wait_and_then_denials_at_once_until_somebody_answers(monkeypatch):
    monkeypatch.setattr(pdp_client, "CONNECT_S", 0.2)
    port, clock = free_port(), asyncio.get_running_loop().time
    client = PdpClient(f"127.0.0.1:{port}", None, unsafe_plaintext=True, timeout_s=5)
    took = []
    for _ in range(20):
        began = clock()
        with pytest.raises(NoDecision) as error:
            await client.authorize(REQUEST, None)
        assert error.value.code == "UNAVAILABLE"
        took.append(clock() - began)
    assert 0.2 <= took[0] < 3
    assert sum(took[1:]) < 19 * 0.1
    server = await beginning(Decisions(), port)
    while True:
        with contextlib.suppress(NoDecision):
            await client.authorize(REQUEST, None)
            break
        await asyncio.sleep(0.01)
    await server.stop(0)
    began = clock()
    with pytest.raises(NoDecision):
        await client.authorize(REQUEST, None)
    assert clock() - began >= 0.2  # it was answered since: this is a new outage, and may be a short one
    await client.close()


async def test_a_caller_in_a_hurry_begins_no_outage_for_others(monkeypatch):
    monkeypatch.setattr(pdp_client, "CONNECT_S", 0.5)
    port = free_port()
    client = PdpClient(f"127.0.0.1:{port}", None, unsafe_plaintext=True, timeout_s=5)
    with pytest.raises(NoDecision):
        await client.authorize(REQUEST, pdp_client.MARGIN_S + 0.02)
    waiting = asyncio.create_task(client.authorize(REQUEST, None))
    await asyncio.sleep(0)
    server = await beginning(Decisions(), port)
    assert (await waiting).effect == pb.EFFECT_ALLOW
    await client.close()
    await server.stop(0)
