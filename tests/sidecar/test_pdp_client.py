"""Every failure on the way to the decision point is `NoDecision`, and in time."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from decisions import Decisions
from exequatur.v1 import decision_pb2 as pb
from sidecar.pdp_client import NoDecision, PdpClient

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
