"""Bundles from web servers: what changes is seen, what is wrong is one sentence, and nothing leads elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest

from asking import PLAIN, Clock, fault, fault_of, remote
from pdp.bundle.https import BUNDLES, HttpsAsker
from pdp.bundle.remote import RemoteSource
from pdp.bundle.source import FolderSource, SourceError, open_source
from pdp.bundle.web import WEB_LIMITS, Access, _client
from pdp.settings import Feed
from pki import Authority
from policies import opa
from publisher import pair, publish
from stack import free_port
from web_servers import TOKEN, BundleServer, answer, caddy, says, scripted


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server_tls(authority):
    return authority.issue("server")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


async def test_caddy_serves_what_changes_to_those_with_the_token(folder, server_tls, tmp_path):
    token = tmp_path / "token"
    access = Access(token, server_tls.roots)
    (folder / "bundle.tar.gz").write_bytes(publish(1))
    with caddy(folder, server_tls, token=TOKEN) as url:
        reader = remote(url, access=access)
        assert "our token `" in (await reader.ask()).faults[0]
        token.write_text("another")
        assert "it answers with 401" in (await reader.ask()).faults[0]
        assert reader.confirmed_at is None
        token.write_text(f"{TOKEN}\n")
        look = await reader.ask()
        assert (look.found.origin, look.found.bundle.sequence) == (f"{url}/bundle.tar.gz", 1)
        assert look.found.data == publish(1) or look.found.bundle.kid == "ops"
        assert look.faults == ()
        before = reader.source._got.data
        assert (await reader.ask()).found is None
        assert reader.source._got.data is before  # 304: it was not sent again
        (folder / "bundle.tar.gz").write_bytes(publish(2))
        assert (await reader.ask()).found.bundle.sequence == 2
        (folder / "bundle.tar.gz").unlink()
        assert "it answers with 404" in (await reader.ask()).faults[0]
        assert reader.sequence == 2


async def test_caddy_asks_for_our_certificate(folder, authority, server_tls):
    (folder / "bundle.tar.gz").write_bytes(publish(1))
    ours = authority.issue("pdp")
    with caddy(folder, server_tls, clients=True) as url:
        assert "TLS fails" in await fault(url, access=Access(roots=authority.roots))
        access = Access(roots=authority.roots, certificate=ours.certificate, key=ours.key)
        assert (await remote(url, access=access).ask()).found.bundle.sequence == 1


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        ({"age": timedelta(days=3)}, "its certificate is refused: certificate has expired"),
        ({"host": "elsewhere.example"}, "its certificate is refused: hostname mismatch, certificate is not valid for"),
    ],
)
async def test_a_certificate_that_is_over_or_somebody_elses_is_refused(authority, leaf, why):
    async with scripted(BundleServer(publish()), tls=authority.issue("bad", **leaf)) as url:
        assert why in await fault(url, access=Access(roots=authority.roots))


async def test_a_certificate_of_roots_that_nobody_named_is_refused(authority, tmp_path, server_tls):
    async with scripted(BundleServer(publish()), tls=server_tls) as url:
        stranger = Authority(tmp_path / "other", "stranger")
        assert "its certificate is refused: unable to get" in await fault(url, access=Access(roots=stranger.roots))
        assert "its certificate is refused" in await fault(url, access=Access())
        assert (await remote(url, access=Access(roots=authority.roots)).ask()).found is not None
        missing = Access(roots=tmp_path / "nowhere.pem")
        assert "nowhere.pem` cannot be read: no such file" in await fault(url, access=missing)
        (tmp_path / "no.pem").write_text("hello")
        assert "no.pem` holds no certificate" in await fault(url, access=Access(roots=tmp_path / "no.pem"))


# Long polling, as OPA does it.


async def test_a_held_answer_comes_with_the_newer_bundle_and_a_refresh_does_not_wait_for_it():
    server, clock = BundleServer(publish(1)), Clock()
    async with scripted(server) as url:
        reader = remote(url, clock=clock, long_poll_s=30)
        running = asyncio.create_task(reader.source.run())
        await server.held.wait()
        assert server.asked[-1].headers["prefer"] == "modes=snapshot;wait=30"
        assert reader.look().found.bundle.sequence == 1
        await reader.ask()  # answered at once, while the other question is held
        assert server.asked[-1].headers["prefer"] == "modes=snapshot"
        server.held.clear()
        await server.put(publish(2))
        await server.held.wait()
        assert reader.look().found.bundle.sequence == 2
        running.cancel()
    assert max(clock.slept) <= 1  # between held answers nothing is waited for but the least space


async def test_a_server_that_does_not_hold_is_polled():
    server, clock = BundleServer(publish(1), holds=False), Clock()
    done = asyncio.Event()
    clock.hook = lambda: done.set() if len(clock.slept) == 3 else None
    async with scripted(server) as url:
        reader = remote(url, clock=clock, long_poll_s=30, poll_s=7)
        running = asyncio.create_task(reader.source.run())
        await done.wait()
        running.cancel()
    assert clock.slept[:3] == [pytest.approx(7.7)] * 3
    assert [asked.headers["prefer"] for asked in server.asked[:2]] == ["modes=snapshot;wait=30", "modes=snapshot"]
    assert server.asked[1].headers["if-none-match"] == server.etag


async def test_a_server_that_holds_nothing_though_it_says_so_is_not_asked_without_end():
    server, clock = BundleServer(publish(1)), Clock()
    done = asyncio.Event()
    clock.hook = lambda: done.set() if len(clock.slept) == 5 else None

    async def handler(asked, writer) -> None:
        await server(replace(asked, headers={**asked.headers, "prefer": ""}), writer)

    async with scripted(handler) as url:
        running = asyncio.create_task(remote(url, clock=clock, long_poll_s=30).source.run())
        await done.wait()
        running.cancel()
    assert clock.slept[:5] == [1.0] * 5


async def test_a_real_opa_understands_the_server_that_we_are_tried_against(tmp_path):
    server = BundleServer(publish(1))
    async with scripted(server) as url:
        config = {
            "services": {"ours": {"url": url}},
            "bundles": {
                "policy": {
                    "service": "ours",
                    "resource": "bundle.tar.gz",
                    "polling": {"long_polling_timeout_seconds": 20},
                    "signing": {"keyid": "ops"},
                }
            },
            "keys": {"ops": {"algorithm": "ES256", "key": pair("ops")[1].decode()}},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        command = [opa(), "run", "--server", "--config-file", "config.json", "--addr", f"127.0.0.1:{free_port()}"]
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(20):
                await server.held.wait()
                server.held.clear()
                known = server.etag
                await server.put(publish(2))
                await server.held.wait()
        finally:
            process.kill()
            await process.wait()
    assert [asked.headers["prefer"] for asked in server.asked] == ["modes=snapshot,delta;wait=20"] * len(server.asked)
    # It activated the first, and the second: it asks about those alone that it took.
    assert [asked.headers.get("if-none-match") for asked in server.asked[:3]] == [None, known, server.etag]


# What is wrong is one sentence, and what is served stays.


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "it answers with 401: unauthorized: it wants a token, or another one"),
        (403, "it answers with 403: forbidden: our token or certificate may not do this"),
        (404, "it answers with 404: not found: look at the address"),
        (429, "it answers with 429: too many requests"),
        (500, "it answers with 500: internal server error"),
        (502, "it answers with 502: bad gateway"),
        (206, "it answers with 206: partial content"),
        (304, "it answers with 304, and nothing was asked that this could mean"),
    ],
)
async def test_a_status_is_told(status, why):
    assert await fault_of(answer(status, Content_Length="" if status == 304 else "0")) == why


@pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "application/json", "text/plain"])
async def test_a_page_is_no_bundle(media_type):
    said = await fault_of(answer(200, b"<html>", Content_Type=media_type))
    assert said == f"it answers with `{media_type.partition(';')[0]}`, which is no bundle: look at the address"


@pytest.mark.parametrize("media_type", ["", BUNDLES, "application/octet-stream", "application/vnd.acme.v1+gzip"])
async def test_what_may_be_a_bundle_is_looked_at(media_type):
    async with scripted(says(answer(200, publish(), Content_Type=media_type))) as url:
        assert (await remote(url).ask()).found is not None


async def test_an_encoding_that_was_not_asked_for_is_refused():
    said = await fault_of(answer(200, publish(), Content_Encoding="gzip"))
    assert said == "it sends the content encoded as `gzip`, which was not asked for"


async def test_what_is_cut_half_way_is_not_taken():
    whole = answer(200, publish())
    assert await fault_of(whole[: len(whole) // 2]) == "it breaks off before the end, or what it sends is no HTTP"
    chunked = answer(200, b"5\r\nhello\r\n", Content_Length="", Transfer_Encoding="chunked")
    assert await fault_of(chunked) == "it breaks off before the end, or what it sends is no HTTP"
    assert (await fault_of(b"SSH-2.0-OpenSSH_9.6\r\n")).startswith(
        "it breaks off before the end, or what it sends is no HTTP: if it speaks"
    )
    assert (await fault_of(b"")).startswith("it breaks off before the end, or what it sends is no HTTP: if it speaks")


async def test_nobody_there_is_told():
    port = free_port()
    assert await fault(f"http://localhost:{port}") == "it cannot be reached: connection refused"


async def test_silence_and_a_slow_drip_end():
    async def silent(_, writer) -> None:
        await asyncio.Event().wait()

    async def drip(_, writer) -> None:
        writer.write(answer(200, Content_Length="100000"))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with scripted(silent) as url:
        assert await fault(url, limits=replace(WEB_LIMITS, silence_s=0.05)) == "it is silent for more than 0.05 s"
    async with scripted(drip) as url:
        assert await fault(url, limits=replace(WEB_LIMITS, whole_s=0.2)) == "it takes longer than 0.2 s"


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://elsewhere.example/b", "it redirects to an address without TLS, which is never followed"),
        ("https://elsewhere.example/b", "it redirects to `elsewhere.example`: name that server instead"),
        ("//localhost:1/b", "it redirects to an address without TLS, which is never followed"),
        ("https://a:b/", "it redirects to what is no address"),
        ("/bundle.tar.gz", "it redirects more than 3 times"),
    ],
)
async def test_a_redirect_leads_nowhere_else(location, why):
    assert why in await fault_of(answer(302, Location=location))


async def test_a_redirect_from_tls_to_plain_text_is_not_followed(authority, server_tls):
    server = BundleServer(publish())
    async with scripted(server) as plain:
        moved = answer(301, Location=f"{plain}/bundle.tar.gz")
        async with scripted(says(moved), tls=server_tls) as url:
            said = await fault(url, access=Access(roots=authority.roots, unsafe_plaintext=True))
    assert said == "it redirects to an address without TLS, which is never followed"
    assert server.asked == []


async def test_a_redirect_on_the_same_server_is_followed():
    server = BundleServer(publish())

    async def handler(asked, writer) -> None:
        if asked.path == "/bundle.tar.gz":
            writer.write(answer(307, Location="/v2/bundle.tar.gz"))
        else:
            await server(asked, writer)

    async with scripted(handler) as url:
        assert (await remote(url).ask()).found is not None


# Addresses.


async def test_an_address_says_which_kind_of_source_it_is(tmp_path):
    assert isinstance(open_source(Feed(bundle=str(tmp_path))), FolderSource)
    source = open_source(Feed(bundle="https://bundles.example/b.tar.gz?team=a", poll_s=60))
    assert isinstance(source, RemoteSource)
    assert source._asker.origin == "https://bundles.example/b.tar.gz"  # a query may hold what nobody should read


async def test_plain_text_is_for_loopback_and_only_when_it_was_asked_for():
    async with scripted(BundleServer(publish())) as url:
        assert "plain text has to be asked for" in await fault(url, access=Access())
    assert "plain text has to be asked for" in await fault("http://bundles.example")
    assert "it is no address of a server" in await fault("http://localhost:99999")
    with pytest.raises(SourceError, match="no address"):
        HttpsAsker("https://a:b/", PLAIN)


def test_no_environment_chooses_for_us(monkeypatch):
    """A proxy, or a `.netrc`, of the environment would see what is asked, or say who asks."""
    monkeypatch.setitem(os.environ, "HTTPS_PROXY", "http://127.0.0.1:9")
    client = _client(PLAIN, WEB_LIMITS, 0)
    assert client._mounts == {}


async def test_no_log_holds_an_address_with_its_query(caplog):
    """Some addresses hold a signature that lets anybody read."""
    caplog.set_level("INFO")
    async with scripted(BundleServer(publish())) as url:
        await HttpsAsker(f"{url}/b?signature=secret", PLAIN).ask("", wait_s=0)
    assert "secret" not in caplog.text
