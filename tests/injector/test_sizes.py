"""One pod does not hold up all others: the largest of each shape is judged soon, and beside those that wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from admission import CATALOGUE, annotated, ask, catalogue, changed, container, pod, response, review
from injector.metrics import Metrics
from injector.review import LIMITS, Malformed
from injector.server import application

MANY = 10_000
CODER = CATALOGUE["agents"]["coder"]
FLEET = catalogue(agents={f"agent-{number}": CODER for number in range(500)} | {"coder": CODER})
VOLUMES, MOUNTS = pod()["spec"]["volumes"], container()["volumeMounts"]


def spec(**more):
    return changed(pod(), **{f"spec__{name}": value for name, value in more.items()})


def mounting(name, count):
    return container(name, volumeMounts=[*MOUNTS, *({"name": "w", "mountPath": f"/m{at}"} for at in range(count))])


SHAPES = {
    "volumes": spec(volumes=[*VOLUMES, *({"name": f"v{at}", "emptyDir": {}} for at in range(MANY))]),
    "containers": annotated(spec(containers=[container(), *({"name": f"c{at}"} for at in range(MANY))])),
    "registries": spec(imagePullSecrets=[{"name": "git-token"}] * MANY),
    "kinds of a volume": spec(volumes=[*VOLUMES, {"name": "v", **{f"kind{at}": {} for at in range(MANY)}}]),
    "annotations": annotated(pod(), **{f"a{at}": "x" for at in range(MANY)}),
    "names of containers": annotated(
        spec(containers=[container(), *(container(f"c{at}") for at in range(90))]), container="c89," * 200_000
    ),
    "members that nobody knows": changed(pod(), **{f"spec__new{at}": 1 for at in range(MANY)}),
    "items that nobody reads": spec(affinity={"a": [[1] * 10] * MANY}),
    "whatever is allowed": annotated(
        spec(
            containers=[mounting("main", 900), *(mounting(f"c{at}", 200) for at in range(90))],
            imagePullSecrets=[{"name": "mine"}] * 100,
        ),
        container="main",
    ),
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_the_largest_of_each_shape_is_judged_soon(value):
    body = json.dumps(review(value)).encode()
    assert len(body) < LIMITS.bytes
    start = time.process_time()
    with contextlib.suppress(Malformed):
        ask("mutate", body, FLEET)
    assert time.process_time() - start < 2


@contextlib.asynccontextmanager
async def api_server():
    """Give who asks an injector."""
    with ThreadPoolExecutor(1) as judges:
        transport = httpx2.ASGITransport(app=application(FLEET, Metrics(), judges))
        async with httpx2.AsyncClient(transport=transport, base_url="https://injector") as client:
            yield client


async def test_what_waits_goes_on_while_a_large_pod_is_judged():
    async with api_server() as client:
        large = asyncio.create_task(client.post("/mutate", json=review(SHAPES["whatever is allowed"])))
        turns = 0
        while not large.done():
            await asyncio.sleep(0.001)
            turns += 1
    assert "uid" in response(large.result().content)
    assert turns > 20


async def test_what_there_is_no_room_for_is_told_to_come_again():
    full, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def unfinished():
        yield b" " * (LIMITS.bytes - 1)
        full.release()
        await go_on.wait()

    headers = {"content-type": "application/json"}
    async with api_server() as client:
        waiting = [
            asyncio.create_task(client.post("/mutate", content=unfinished(), headers=headers)) for _ in range(10)
        ]
        for _ in waiting:
            await full.acquire()
        given = await client.post("/mutate", json=review(pod()))
        assert (given.status_code, given.text) == (503, "there are too many reviews at once: try again\n")
        go_on.set()
        assert {given.status_code for given in await asyncio.gather(*waiting)} == {400}
        assert (await client.post("/mutate", json=review(pod()))).status_code == 200
