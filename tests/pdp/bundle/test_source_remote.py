"""What a server has is kept and verified anew; no server wastes our time or memory, or is believed more than it proves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import zlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from asking import Clock, remote
from pdp.bundle.remote import RETRY_AFTER_S, WHOLE_S
from publisher import NOW, built, keys, publish
from web_servers import BundleServer, answer, says, scripted


async def test_a_bundle_that_does_not_verify_is_told_and_what_is_served_stays():
    server = BundleServer(publish(3))
    async with scripted(server) as url:
        reader = remote(url)
        await reader.ask()
        for data, why in (
            (publish(4, kid="thief"), "no key `thief`"),
            (publish(2), "sequence 2 after 3"),
            (publish(3, expires_at=NOW + timedelta(days=1)), "somebody signed two bundles"),
            (built().archive, "is not signed"),
            (b"hello", "the tar"),
        ):
            server.data = data
            look = await reader.ask()
            assert look.found is None
            assert why in look.faults[0]
            assert look.alarms == (look.faults if "two bundles" in why else ()), "only who may sign can have made it"
            assert look.away == ()
            assert (await reader.ask()).faults == ()
        assert reader.sequence == 3


async def test_other_keys_verify_what_is_here_without_asking():
    server = BundleServer(publish(1, kid="next"))
    async with scripted(server) as url:
        reader = remote(url)
        assert "no key `next`" in (await reader.ask()).faults[0]
        assert reader.confirmed_at is None
        reader.keys = keys("next")
        assert reader.look().found.bundle.sequence == 1
    assert len(server.asked) == 1


async def test_a_bundle_waits_for_its_time_and_is_told_when_it_is_over():
    server = BundleServer(publish(1, not_before=NOW + timedelta(hours=1), expires_at=NOW + timedelta(hours=2)))
    async with scripted(server) as url:
        reader = remote(url)
        assert "not valid before" in (await reader.ask()).faults[0]
        assert reader.look(NOW + timedelta(hours=1)).found is not None
        assert "expired" in reader.look(NOW + timedelta(hours=2)).faults[0]


async def test_what_could_not_be_proved_is_not_given_again():
    async with scripted(BundleServer(publish())) as url:
        reader = remote(url)
        await reader.source.refresh()
        found = reader.source.look(keys(), now=NOW, floor=None).found
        reader.source.refuse(found.bundle.digest)
        assert reader.source.look(keys(), now=NOW, floor=None).found is None


# Time, tags and order.


async def test_an_hour_away_changes_nothing_and_the_way_back_is_short():
    server, clock = BundleServer(publish(1)), Clock()
    back, over, newer = NOW + timedelta(hours=1), asyncio.Event(), publish(2)
    clock.hook = lambda: over.set() if clock.now > back + timedelta(minutes=2) else None

    async def handler(asked, writer) -> None:
        if clock.now == NOW or clock.now > back:
            await server(asked, writer)

    async with scripted(handler) as url:
        reader = remote(url, clock=clock, poll_s=10)
        running = asyncio.create_task(reader.source.run())
        faults = []
        while not over.is_set():
            await asyncio.sleep(0)
            faults += reader.look(clock.now).faults
            if clock.now < back:
                assert reader.confirmed_at in (None, NOW)
                server.data = newer
        running.cancel()
    assert len(faults) == 1
    assert reader.sequence == 2
    assert reader.confirmed_at > back
    away = [pause for pause in clock.slept if pause != 11.0]
    assert away[:7] == [0.5, 1, 2, 4, 8, 10, 10]
    assert max(away) == 10


async def test_a_server_without_tags_is_polled_and_what_is_the_same_is_not_verified_again():
    server, clock = BundleServer(publish(1), tags=False), Clock()
    done = asyncio.Event()
    clock.hook = lambda: done.set() if len(clock.slept) == 3 else None
    async with scripted(server) as url:
        reader = remote(url, clock=clock, long_poll_s=30)
        running = asyncio.create_task(reader.source.run())
        await done.wait()
        running.cancel()
        reader.look()
        checked = reader.source._checked
        assert (await reader.ask()).found is None
        assert reader.source._checked is checked
    assert clock.slept[:3] == [11.0] * 3  # though it says that it can hold, it has nothing to hold by


@pytest.mark.parametrize(
    ("header", "pause"),
    [("120", 120), ("99999999", RETRY_AFTER_S), ("Sun, 01 Mar 2026 00:01:30 GMT", 90), ("soon", 0.5), ("-5", 0.5)],
)
async def test_a_server_that_says_when_to_come_back_is_heard_up_to_a_bound(header, pause):
    assert (await pauses(answer(503, Retry_After=header), 1))[0] == pytest.approx(pause)


@pytest.mark.parametrize(
    ("poll_s", "max_staleness_s", "longest"),
    [
        (1, 0, 5),
        (20, 0, 20),
        (3600, 0, 60),
        (1, 30, 5),
        (3600, 30, 10),
        (10, 3, 1),
        (10, 1, 0.5),
    ],
)
async def test_a_server_that_is_back_is_asked_soon_by_who_polls_often_or_would_go_stale(
    poll_s, max_staleness_s, longest
):
    assert max(await pauses(answer(503), 12, poll_s=poll_s, max_staleness_s=max_staleness_s)) == longest


@pytest.mark.parametrize(("max_staleness_s", "pause"), [(0, 120), (3600, 120), (60, 20), (1, 0.5)])
async def test_a_server_cannot_send_a_decision_point_away_until_its_policy_is_stale(max_staleness_s, pause):
    reply = answer(503, Retry_After="120")
    assert (await pauses(reply, 1, poll_s=1, max_staleness_s=max_staleness_s))[0] == pause


async def pauses(reply: bytes, count: int, **options) -> list[float]:
    """Ask a server that always replies so, until `count` pauses were made."""
    clock, done = Clock(), asyncio.Event()
    clock.hook = lambda: done.set() if len(clock.slept) == count else None
    async with scripted(says(reply)) as url:
        running = asyncio.create_task(remote(url, clock=clock, **options).source.run())
        await done.wait()
        running.cancel()
    return clock.slept


async def test_a_tag_that_stands_for_two_bundles_is_not_believed_again():
    """A server says 304 about a bundle that it has replaced: its tag is by size and second, say."""
    server, clock = BundleServer(publish(1)), Clock()

    async def handler(asked, writer) -> None:
        server.asked.append(asked)
        known = asked.headers.get("if-none-match")
        writer.write(answer(304, Content_Length="") if known else answer(200, server.data, ETag='"same"'))

    async with scripted(handler) as url:
        reader = remote(url, clock=clock)
        await reader.ask()
        server.data = publish(2)
        assert (await reader.ask()).found is None  # the lie holds ...
        clock.now += timedelta(seconds=WHOLE_S)
        look = await reader.ask()  # ... until the whole is asked for
        assert look.found.bundle.sequence == 2
        assert "its ETag stood for two bundles" in look.faults[0]
        server.data = publish(3)
        assert (await reader.ask()).found.bundle.sequence == 3
        assert "if-none-match" not in server.asked[-1].headers
        assert not reader.source._is_held()


async def test_a_bundle_under_the_tag_of_another_is_taken_and_told():
    async with scripted(says(*(answer(200, publish(sequence), ETag='"same"') for sequence in (1, 2)))) as url:
        reader = remote(url)
        assert (await reader.ask()).faults == ()
        look = await reader.ask()
    assert look.found.bundle.sequence == 2
    assert [fault.partition(": ")[2] for fault in look.faults] == [
        "its ETag stood for two bundles: it is asked for the whole each time"
    ]


async def test_a_304_for_another_tag_is_no_confirmation():
    replies = [answer(200, publish(), ETag='"a"'), answer(304, ETag='"b"', Content_Length="")]
    async with scripted(says(*replies)) as url:
        reader = remote(url)
        await reader.ask()
        look = await reader.ask()
    assert "it answers with 304 for another ETag than the one that was asked about" in look.faults[0]


async def test_an_answer_that_comes_late_does_not_replace_a_newer_one():
    first, release, asked = asyncio.Event(), asyncio.Event(), []

    async def handler(_, writer) -> None:
        asked.append(1)
        if len(asked) == 1:
            first.set()
            await release.wait()
            writer.write(answer(200, publish(1)))
        else:
            writer.write(answer(200, publish(2)))

    async with scripted(handler) as url:
        reader = remote(url)
        slow = asyncio.create_task(reader.source.refresh())
        await first.wait()
        assert (await reader.ask()).found.bundle.sequence == 2
        release.set()
        await slow
        assert reader.look() == replace(reader.look(), found=None, faults=())


# Bounds.


def _bomb() -> bytes:
    """Make 5 MB of gzip that would be 5 GB."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(16 * 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * 320 + b"\x03\0" + bytes(8)


async def test_a_bomb_takes_no_memory():
    """Of 5 GB, declared or not, sent or only packed, little is held, measured in a process of its own."""
    sent, bomb = [], _bomb()

    async def handler(asked, writer) -> None:
        if asked.path.startswith("/declared"):
            writer.write(answer(200, Content_Length=str(5 * 2**30)))
        elif asked.path.startswith("/endless"):
            writer.write(answer(200, Content_Length="", Transfer_Encoding="chunked"))
            chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
            with contextlib.suppress(ConnectionError):
                for _ in range(5 * 2**30 // 0x10000):
                    writer.write(chunk)
                    sent.append(len(chunk))
                    await writer.drain()
        else:
            writer.write(answer(200, bomb if asked.path.startswith("/packed") else publish()))

    async with scripted(handler) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CHILD, url), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        out, _ = await process.communicate()
    said = json.loads(out)
    assert "at most 16777216 are taken" in said["declared"]
    assert "it sends more than 16777216 bytes" in said["endless"]
    assert "the archive unpacks to more than" in said["packed"]
    assert sum(sent) < 40 * 2**20
    assert said["grew"] < 100 * 2**20


_CHILD = """
import asyncio, json, sys
from datetime import UTC, datetime
from exequatur.trust.keys import generate, parse_key_set
from pdp.bundle.https import HttpsAsker
from pdp.bundle.remote import RemoteSource
from pdp.bundle.web import Access

ring = parse_key_set({"k.pem": generate("ES256")[1]})

def most():
    with open("/proc/self/status") as status:  # `ru_maxrss` counts what our parent had
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

async def fault(name):
    source = RemoteSource(HttpsAsker(f"{sys.argv[1]}/{name}", Access(unsafe_plaintext=True)))
    await source.refresh()
    return source.look(ring, now=datetime.now(UTC), floor=None).faults[0]

async def main():
    await fault("plain")
    before = most()
    said = {name: await fault(name) for name in ("declared", "endless", "packed")}
    print(json.dumps({**said, "grew": most() - before}))

asyncio.run(main())
"""
