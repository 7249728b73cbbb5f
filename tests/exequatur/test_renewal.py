"""Certificates that are renewed while they are used: no call is lost, nobody becomes another, nothing broken is taken."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from exequatur import renewal, transport
from exequatur.client.channels import Way, open_async_channel
from exequatur.renewal import Renewal, kept_fresh
from exequatur.transport import Server, TlsFiles
from exequatur.v1 import decision_pb2
from pki import DAY, Authority

ECHO = "/test.Echo/Call"
SERVICES = (decision_pb2.DESCRIPTOR.services_by_name["DecisionService"],)
PDP, SIDECAR = "spiffe://test/pdp", "spiffe://test/sidecar"

Ask = Callable[[], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(renewal, "LOOK_S", 0.03)
    young = {**dict(transport.OPTIONS), "grpc.max_connection_age_ms": 300}
    monkeypatch.setattr(transport, "OPTIONS", tuple(young.items()))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@contextlib.asynccontextmanager
async def serving(renewed: Renewal) -> AsyncIterator[str]:
    async def who(message: bytes, peer: transport.Peer, seconds: float | None) -> bytes:
        return peer.identity.encode()

    server = Server({ECHO: who}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", renewed)
    await server.start()
    async with kept_fresh(renewed):
        yield f"127.0.0.1:{port}"
    await server.stop(0)


def way(target: str, renewed: Renewal) -> Way[Ask]:
    """A way as our clients have it; like theirs, a call waits for a connection that is not there yet."""

    def stubs(channel: grpc.aio.Channel) -> Ask:
        call = channel.unary_unary(ECHO)
        return lambda: call(b"", timeout=30, wait_for_ready=True)

    return Way(target, renewed, stubs, unsafe_plaintext=False, longest_s=0.2)


async def afresh(target: str, tls: Renewal) -> bytes:
    """Call over a connection of its own."""
    async with open_async_channel(target, tls) as channel:
        return await channel.unary_unary(ECHO)(b"", timeout=30)


async def taken(renewed: Renewal) -> None:
    """Wait until other files than now hold."""
    now = renewed.now
    await until(lambda: renewed.now is not now)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  what is awaited is meant to be as it is in use
            await asyncio.sleep(0.01)


async def test_server_and_client_are_renewed_under_load_and_no_call_fails_when_the_old_ones_have_ended(authority):
    soon = 2 * DAY - dt.timedelta(seconds=4)
    files = [authority.issue("server", PDP, age=soon), authority.issue("client", SIDECAR, age=soon)]
    server, client = (Renewal(each) for each in files)
    ends = max(server.ends(), client.ends())
    asked, ending = [0], asyncio.Event()
    async with serving(server) as target, kept_fresh(client):
        ways = [way(target, client) for _ in range(3)]

        async def load(one: Way[Ask]) -> None:
            while not ending.is_set():
                assert await one.now() == SIDECAR.encode()
                asked[0] += 1
                await asyncio.sleep(0.02)

        loads = [asyncio.create_task(load(one)) for one in ways]
        before = [one.now for one in ways]
        both = asyncio.gather(taken(server), taken(client))
        authority.issue("server", PDP)
        authority.issue("client", SIDECAR)
        await both
        await until(lambda: all(one.now is not old for one, old in zip(ways, before, strict=True)))
        over = (ends - dt.datetime.now(dt.UTC)).total_seconds() + 0.5
        await asyncio.sleep(max(over, 0))  # past the end, and past the age at which each connection is made anew
        assert await afresh(target, client) == SIDECAR.encode()
        served = asked[0]
        await until(lambda: asked[0] >= served + 50 or any(task.done() for task in loads))
        assert not any(task.done() for task in loads)
        ending.set()
        await asyncio.gather(*loads)
        for one in ways:
            await one.close()


async def test_whoever_is_not_renewed_is_refused_when_its_certificate_has_ended(authority):
    server = Renewal(authority.issue("server", PDP))
    client = Renewal(authority.issue("client", SIDECAR, age=2 * DAY + dt.timedelta(seconds=1)))
    async with serving(server) as target:
        with pytest.raises(grpc.aio.AioRpcError):
            await afresh(target, client)


async def test_a_root_that_is_added_lets_in_and_one_that_is_taken_away_lets_nobody_in_any_more(authority, tmp_path):
    other, roots = Authority(tmp_path / "other", "other"), tmp_path / "roots.pem"
    old, new = authority.roots.read_bytes(), other.roots.read_bytes()
    roots.write_bytes(old)
    files = authority.issue("server", PDP)
    server = Renewal(TlsFiles(files.certificate, files.key, roots))
    theirs = other.issue("client", SIDECAR)
    before = Renewal(authority.issue("client", SIDECAR))
    after = Renewal(TlsFiles(theirs.certificate, theirs.key, authority.roots))
    async with serving(server) as target:

        async def lets_in(caller: Renewal) -> bool:
            try:
                return await afresh(target, caller) == SIDECAR.encode()
            except grpc.aio.AioRpcError:
                return False

        assert (await lets_in(before), await lets_in(after)) == (True, False)
        async with open_async_channel(target, before) as standing:
            assert await standing.unary_unary(ECHO)(b"") == SIDECAR.encode()
            for pem, who in ((old + new, (True, True)), (new, (False, True))):
                roots.write_bytes(pem)
                await taken(server)
                assert (await lets_in(before), await lets_in(after)) == who
            async with asyncio.timeout(60):  # who was let in goes when its connection is as old as it may be
                while True:
                    try:
                        await standing.unary_unary(ECHO)(b"", timeout=30)
                    except grpc.aio.AioRpcError:
                        break
                    await asyncio.sleep(0.02)


class Watched:
    """A renewal that is looked at by hand, and what it said."""

    def __init__(self, files: TlsFiles) -> None:
        self.said: list[str] = []
        self.renewal = Renewal(files, self.said.append)
        self.files, self.first = files, self.renewal.now

    def looks(self) -> bool:
        """Look as often as it takes; says whether others hold."""
        return True in [self.renewal.look() for _ in range(4)]


@pytest.fixture
def watched(authority: Authority) -> Watched:
    return Watched(authority.issue("server", PDP))


def test_a_key_that_does_not_fit_its_certificate_waits_for_the_one_that_does(authority, watched):
    key = watched.files.key.read_bytes()
    authority.issue("server", PDP)
    new, _ = watched.files.key.read_bytes(), watched.files.key.write_bytes(key)
    assert not watched.looks()
    assert watched.renewal.now is watched.first
    assert len(watched.said) == 1, "it is said once"
    assert "are no certificate and its key: the TLS files that were good stay" in watched.said[0]
    watched.files.key.write_bytes(new)
    assert watched.looks()
    assert watched.renewal.now.key == new
    assert len(watched.said) == 1


def test_what_changes_between_two_looks_is_not_believed_yet_nor_called_broken(authority, watched):
    key = watched.files.key.read_bytes()
    authority.issue("server", PDP)
    new, _ = watched.files.key.read_bytes(), watched.files.key.write_bytes(key)
    assert not watched.renewal.look()
    watched.files.key.write_bytes(new)
    assert (watched.renewal.look(), watched.renewal.look()) == (False, True)
    assert watched.said == []


@pytest.mark.parametrize("name", ["certificate", "key", "roots"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nbad\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_gone_or_broken_changes_nothing(watched, name, content):
    path = getattr(watched.files, name)
    good = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not watched.looks()
    assert watched.renewal.now is watched.first
    assert len(watched.said) == 1
    assert f"`{path}`" in watched.said[0]
    path.write_bytes(good)
    assert not watched.looks(), "they are what they were"
    assert watched.renewal.now is watched.first


@pytest.mark.parametrize("names", [(SIDECAR,), (), (PDP, SIDECAR)])
def test_nobody_becomes_another_while_running(authority, watched, names):
    authority.issue("server", *names)
    assert not watched.looks()
    assert watched.renewal.now is watched.first
    assert len(watched.said) == 1
    assert f"and we are `{PDP}`" in watched.said[0]


@pytest.mark.parametrize("age", [-dt.timedelta(hours=1), 3 * DAY])
def test_a_certificate_that_does_not_hold_now_is_not_taken(authority, watched, age):
    authority.issue("server", PDP, age=age)
    assert not watched.looks()
    assert watched.renewal.now is watched.first
    assert "not now" in watched.said[0]


def test_the_files_of_a_secret_change_together_and_so_does_the_end_of_the_certificate(authority, tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()

    def put(revision: str, age: dt.timedelta) -> None:
        """As a kubelet does: a folder beside the others, and the link that they all go through is exchanged."""
        files, folder = authority.issue(revision, PDP, age=age), mount / f"..{revision}"
        folder.mkdir()
        for name in ("certificate", "key", "roots"):
            shutil.copy(getattr(files, name), folder / name)
        (mount / "..next").symlink_to(folder.name)
        (mount / "..next").replace(mount / "..data")

    put("one", DAY)
    files = [mount / name for name in ("certificate", "key", "roots")]
    for path in files:
        path.symlink_to(f"..data/{path.name}")
    watched = Watched(TlsFiles(*files))
    put("two", dt.timedelta(0))
    assert watched.looks()
    assert watched.renewal.ends() - watched.first.ends >= DAY
    assert watched.said == []


async def test_a_call_that_is_under_way_ends_on_the_channel_that_it_began_on(authority):
    began, go = asyncio.Event(), asyncio.Event()

    async def slow(message: bytes, peer: transport.Peer, seconds: float | None) -> bytes:
        if message == b"slow":
            began.set()
            await go.wait()
        return b"done"

    client = Renewal(authority.issue("client", SIDECAR))
    server = Server({ECHO: slow}, SERVICES)
    port = server.listen_tcp("127.0.0.1:0", authority.issue("server", PDP))
    await server.start()
    one = Way(
        f"127.0.0.1:{port}",
        client,
        lambda channel: channel.unary_unary(ECHO),
        unsafe_plaintext=False,
        longest_s=0.2,
    )
    async with kept_fresh(client):
        before = one.now
        waiting = asyncio.create_task(_bytes(before))
        await began.wait()
        authority.issue("client", SIDECAR)
        await until(lambda: one.now is not before)
        assert await one.now(b"", timeout=30) == b"done"
        go.set()
        assert await waiting == b"done"
    await one.close()
    await server.stop(0)


async def _bytes(call: grpc.aio.UnaryUnaryMultiCallable) -> bytes:
    return await call(b"slow", timeout=30)
