"""A bundle is put where it is looked for, whole, and never over a newer one."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from asking import PLAIN, Reader
from exequatur.cli.bundle import app
from exequatur.trust.archive import write_archive
from exequatur.trust.errors import TrustError
from exequatur.trust.keys import parse_key_set
from pdp.bundle import push as push_module
from pdp.bundle.oci import OciAsker, Registry
from pdp.bundle.push import Pusher, PushRefused, manifest_for, pack
from pdp.bundle.remote import RemoteSource
from pdp.bundle.source import FolderSource, SourceError
from pdp.bundle.web import Access
from pki import Authority
from policies import opa
from publisher import KID, NOW, built, keys, pair, publish
from stack import free_port
from web_servers import (
    PASSWORD,
    TOKEN,
    BundleServer,
    TokenServer,
    answer,
    caddy,
    htpasswd,
    oras,
    registry,
    says,
    scripted,
)


def pusher(data: bytes, *, access: Access = PLAIN, ring=None, name: str = "mine.tar.gz") -> Pusher:
    return Pusher(pack(name, data, ring, now=NOW), access, ring, now=NOW)


async def push(data: bytes, place: object, **options):
    return await pusher(data, **options).push(str(place))


async def refusal(data: bytes, place: object, **options) -> str:
    with pytest.raises(PushRefused) as caught:
        await push(data, place, **options)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


# Into a folder.


async def test_a_folder_has_it_whole_under_its_name(folder):
    data = publish(2)
    pushed = await push(data, folder)
    assert (pushed.where, pushed.before, pushed.changed) == (str(folder / "mine.tar.gz"), None, True)
    assert [path.name for path in folder.iterdir()] == ["mine.tar.gz"]
    assert (folder / "mine.tar.gz").read_bytes() == data
    mask = os.umask(0)
    os.umask(mask)
    assert (folder / "mine.tar.gz").stat().st_mode & 0o777 == 0o666 & ~mask
    assert Reader(FolderSource(folder)).look().found.bundle.sequence == 2


async def test_older_ones_and_second_ones_of_a_number_are_refused_whatever_the_files_are_called(folder):
    data = publish(5)
    await push(data, folder)
    assert "sequence 5 is there, this one is 4" in await refusal(publish(4), folder, name="other.tar.gz")
    other = publish(5, expires_at=NOW + timedelta(days=1))
    assert "another bundle of sequence 5 is there" in await refusal(other, folder, name="other.tar.gz")
    again = await push(data, folder, name="other.tar.gz")
    assert (again.changed, again.where) == (False, str(folder / "mine.tar.gz"))
    assert (await push(publish(6), folder)).before == 5
    assert [path.name for path in folder.iterdir()] == ["mine.tar.gz"]


async def test_what_is_no_bundle_or_another_tenants_does_not_count_in_a_folder(folder):
    (folder / "junk.tar.gz").write_bytes(b"junk")
    (folder / "unsigned.tar.gz").write_bytes(built().archive)
    (folder / "theirs.tar.gz").write_bytes(publish(9, tenant="acme"))
    assert (await push(publish(1), folder)).changed
    assert "the bundle there is for tenant `acme`" in await refusal(publish(2), folder, name="theirs.tar.gz")


async def test_only_what_our_keys_signed_counts_when_they_are_given(folder):
    (folder / "planted.tar.gz").write_bytes(publish(99, kid="thief"))
    assert "sequence 99 is there" in await refusal(publish(1), folder)
    assert (await push(publish(1), folder, ring=keys())).changed
    old = NOW - timedelta(days=1)
    (folder / "over.tar.gz").write_bytes(publish(7, expires_at=old))
    assert "sequence 7 is there" in await refusal(publish(6), folder, ring=keys())


async def test_what_a_key_signed_while_it_was_good_still_counts(folder):
    terms = {"ops": {"owner": "a", "not_after": "2026-02-01T00:00:00Z"}, "next": {"owner": "b"}}
    policy = json.dumps({"purpose": "bundle", "keys": terms}).encode()
    ring = parse_key_set({"keys.json": policy, "ops.pem": pair("ops")[1], "next.pem": pair("next")[1]})
    (folder / "before.tar.gz").write_bytes(publish(7))
    assert "sequence 7 is there" in await refusal(publish(6, kid="next"), folder, ring=ring)


async def test_one_file_may_be_named_and_a_name_that_nobody_looks_at_may_not(folder):
    assert (await push(publish(1), folder / "policy")).where == str(folder / "policy")
    assert (await push(publish(2), folder / "policy")).before == 1
    assert "sequence 2 is there" in await refusal(publish(1), folder / "policy")
    for name in ("mine.zip", ".mine.tar.gz"):
        assert f"`{name}` would be left alone there" in await refusal(publish(3), folder, name=name)
    with pytest.raises(OSError, match="cannot be written") as caught:
        await push(publish(3), folder / "nowhere" / "mine.tar.gz")
    assert caught.value.filename == str(folder / "nowhere" / "mine.tar.gz")


async def test_a_disk_that_fails_leaves_what_was_there(folder, monkeypatch):
    await push(publish(1), folder)
    before = (folder / "mine.tar.gz").read_bytes()

    def full(_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pdp.bundle.push.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await push(publish(2), folder)
    assert [path.name for path in folder.iterdir()] == ["mine.tar.gz"]
    assert (folder / "mine.tar.gz").read_bytes() == before


async def test_nobody_sees_it_before_it_is_whole_and_lasts(folder, monkeypatch):
    seen, synced, fsync, rename, data = [], [], os.fsync, Path.replace, publish(1)

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    def replace_path(self: Path, target: Path) -> Path:
        seen.append((self.name.startswith("."), self.read_bytes() == data, list(synced)))
        return rename(self, target)

    monkeypatch.setattr("pdp.bundle.push.os.fsync", note)
    monkeypatch.setattr(Path, "replace", replace_path)
    await push(data, folder)
    assert seen == [(True, True, [len(data)])]
    assert len(synced) == 2  # then the folder


def test_of_two_who_push_into_a_folder_at_once_the_newer_stays(folder, monkeypatch):
    """What one saw there must be there still when it writes: else the older takes the newer one's name."""
    write, seen, done, pushed = push_module.write_lasting, threading.Event(), threading.Event(), publish(2)

    def slow(where, target, data) -> None:
        if data != pushed:
            seen.set()
            done.wait(0.3)
        write(where, target, data)
        done.set()

    monkeypatch.setattr(push_module, "write_lasting", slow)
    newer, older = (
        threading.Thread(target=lambda data=data: asyncio.run(push(data, folder))) for data in (pushed, publish(1))
    )
    older.start()
    assert seen.wait(10)
    newer.start()
    for thread in (older, newer):
        thread.join(10)
    assert (folder / "mine.tar.gz").read_bytes() == pushed


# To a web server.


async def test_a_web_server_gets_it_only_over_what_we_saw(tmp_path):
    server, token = BundleServer(), tmp_path / "token"
    token.write_text(TOKEN)
    access = replace(PLAIN, token=token)
    async with scripted(server) as url:
        place = f"{url}/bundle.tar.gz"
        assert (await push(publish(1), f"{place}?team=a", access=access)).where == place
        asked = server.asked[-1]
        assert (asked.headers["if-none-match"], asked.headers["authorization"]) == ("*", f"Bearer {TOKEN}")
        assert asked.path == "/bundle.tar.gz?team=a"
        etag, data = server.etag, publish(2)
        assert (await push(data, place)).before == 1
        assert server.asked[-1].headers["if-match"] == etag
        assert not (await push(data, place)).changed
        assert "sequence 2 is there, this one is 1" in await refusal(publish(1), place)
        assert server.data == data


@pytest.mark.parametrize("there", [None, 1])
async def test_two_who_push_at_once_do_not_undo_each_other(there):
    server, theirs = BundleServer(there and publish(there)), publish(9)

    async def handler(asked, writer) -> None:
        if asked.method == "PUT":
            server.data = theirs
        await server(asked, writer)

    async with scripted(handler) as url:
        assert "somebody put another one there meanwhile" in await refusal(publish(2), f"{url}/bundle.tar.gz")
    assert server.data == theirs


async def test_a_web_server_that_takes_none_says_so(tmp_path, folder):
    tls = Authority(tmp_path / "pki").issue("server")
    (folder / "bundle.tar.gz").write_bytes(publish(1))
    refused = pytest.raises(SourceError, match=r"405: method not allowed: it was asked .* by PUT, and it takes no PUT")
    with caddy(folder, tls) as url, refused:
        await push(publish(2), f"{url}/bundle.tar.gz", access=Access(roots=tls.roots))
    for status in (401, 403, 500):
        async with scripted(says(answer(404), answer(status))) as url:
            with pytest.raises(SourceError, match=f"it answers with {status}"):
                await push(publish(2), f"{url}/bundle.tar.gz")


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_web_server_that_takes_no_put_is_told_from_an_address_where_nothing_is(status):
    async with scripted(says(answer(404), answer(status))) as url:
        with pytest.raises(SourceError, match=f"answers with {status}: .* by PUT, and it takes no PUT here"):
            await push(publish(1), f"{url}/bundle.tar.gz")


async def test_a_push_in_plain_text_to_a_port_of_tls_says_so(tmp_path, folder):
    tls = Authority(tmp_path / "pki").issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.key)
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    told = pytest.raises(SourceError, match="if it speaks TLS there, name it with `https://`")
    async with silent:
        with told:
            await push(publish(1), f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/bundle.tar.gz")
    with caddy(folder, tls) as url, told:
        await push(publish(1), f"http{url.removeprefix('https')}/bundle.tar.gz")


async def test_a_push_is_not_sent_elsewhere():
    async with scripted(says(answer(404), answer(307, Location="https://elsewhere.example/"))) as url:
        with pytest.raises(SourceError, match="it answers with 307"):
            await push(publish(1), f"{url}/bundle.tar.gz")


# To a registry.


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


async def test_a_registry_has_it_for_us_and_for_oras_by_tag_and_by_digest(host, tmp_path):
    data, place = publish(1), f"oci://{host}/team/policy:live"
    pushed = await push(data, place)
    assert pushed.pin.startswith(f"oci://{host}/team/policy@sha256:")
    for address in (place, pushed.pin):
        assert (await Reader(RemoteSource(OciAsker(address, PLAIN))).ask()).found.data == data
    (tmp_path / "away").mkdir()
    told = oras("pull", "--plain-http", pushed.pin.removeprefix("oci://"), cwd=tmp_path / "away")
    assert pushed.pin.partition("@")[2] in told
    assert (tmp_path / "away/mine.tar.gz").read_bytes() == data
    again = await push(data, place)
    assert (again.changed, again.pin) == (False, pushed.pin)
    assert (await push(publish(3), place)).before == 1
    assert "sequence 3 is there, this one is 2" in await refusal(publish(2), place)
    assert "another bundle of sequence 3 is there" in await refusal(publish(3), place)


async def test_the_same_bundle_has_the_same_digest_in_every_registry(host):
    data = publish(1)
    first, second = [await push(data, f"oci://{host}/{name}:v1") for name in ("one", "two")]
    assert first.pin.partition("@")[2] == second.pin.partition("@")[2]
    parcel = pack("mine.tar.gz", data, None, now=NOW)
    assert manifest_for(parcel) == manifest_for(replace(parcel, data=bytes(data)))


async def test_a_real_opa_gets_what_we_pushed_from_a_registry(host, tmp_path):
    data = publish(1)
    await push(data, f"oci://{host}/team/opa:live")
    config = {
        "services": {"ours": {"url": f"http://{host}", "type": "oci"}},
        "bundles": {
            "policy": {
                "service": "ours",
                "resource": f"{host}/team/opa:live",
                "persist": True,
                "signing": {"keyid": KID},
            }
        },
        "keys": {KID: {"algorithm": "ES256", "key": pair(KID)[1].decode()}},
        "persistence_directory": str(tmp_path / "kept"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    port = free_port()
    command = [opa(), "run", "--server", "--config-file", "config.json", "--addr", f"127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            async for line in process.stderr:
                said = json.loads(line)
                assert said["level"] != "error", said
                if said["msg"].startswith("Bundle loaded and activated successfully"):
                    break
    finally:
        process.kill()
        await process.wait()


async def test_a_tag_that_moves_while_we_push_stays_where_it_moved(host, monkeypatch):
    place, theirs = f"oci://{host}/team/busy:live", publish(9)
    await push(publish(1), place)
    upload, done = Registry.upload, []

    async def meanwhile(self, data: bytes) -> None:
        if not done:
            done.append(1)
            await push(theirs, place)
        await upload(self, data)

    monkeypatch.setattr(Registry, "upload", meanwhile)
    assert "somebody moved the tag meanwhile" in await refusal(publish(2), place)
    assert (await Reader(RemoteSource(OciAsker(place, PLAIN))).ask()).found.data == theirs


async def test_a_tag_of_something_else_is_left_alone(host, tmp_path):
    (tmp_path / "image").write_text("no bundle")
    oras("push", "--plain-http", f"{host}/team/image:live", "image:application/vnd.acme", cwd=tmp_path)
    with pytest.raises(SourceError, match=r"the layer is `application/vnd.acme`, which is no bundle"):
        await push(publish(1), f"oci://{host}/team/image:live")


async def test_a_registry_knows_who_may_push(tmp_path):
    token, tokens = tmp_path / "token", TokenServer(tmp_path)
    token.write_text(f"publisher:{PASSWORD}")
    access = replace(PLAIN, token=token)
    with registry(tmp_path / "one", auth=htpasswd(tmp_path)) as host:
        with pytest.raises(SourceError, match="it answers with 401"):
            await push(publish(1), f"oci://{host}/policy:live")
        assert (await push(publish(1), f"oci://{host}/policy:live", access=access)).changed
    async with scripted(tokens) as url:
        with registry(tmp_path / "two", auth=tokens.auth(url)) as host:
            assert (await push(publish(1), f"oci://{host}/policy:live", access=access)).changed
    assert len(tokens.asked) <= 3  # to read, and to write


async def test_a_registry_does_not_have_us_upload_elsewhere():
    async def handler(asked, writer) -> None:
        location = "https://elsewhere.example/upload" if asked.method == "POST" else ""
        writer.write(answer(202 if location else 404, Location=location))

    async with scripted(handler) as url:
        with pytest.raises(SourceError, match=r"upload to `elsewhere.example`, which nobody named"):
            await push(publish(1), f"oci://{urlsplit(url).netloc}/policy:live")


# What is not sent at all.


@pytest.mark.parametrize(
    ("data", "ring", "why"),
    [
        (lambda: built().archive, None, "not signed to be served"),
        (lambda: write_archive({"x.rego": b"package x"}), None, "not signed to be served"),
        (lambda: b"hello", None, "cut short|the tar"),
        (lambda: publish(1, kid="thief"), keys, "no key `thief`"),
        (lambda: publish(1, expires_at=NOW), keys, "expired"),
        (lambda: publish(1, not_before=NOW + timedelta(days=1)), keys, "not valid before"),
    ],
)
def test_what_nobody_would_serve_is_not_sent(data, ring, why):
    with pytest.raises(TrustError, match=why):
        pack("mine.tar.gz", data(), ring and ring(), now=NOW)


# The command.


def call(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, ["push", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.fixture
def desk(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("keys").mkdir()
    Path(f"keys/{KID}.pem").write_bytes(pair(KID)[1])
    Path("mine.tar.gz").write_bytes(publish(2, expires_at=datetime.now(UTC) + timedelta(days=1)))
    Path("old.tar.gz").write_bytes(publish(1))


@pytest.mark.usefixtures("desk")
def test_the_command_says_where_it_is_and_its_digest(host):
    said = json.loads(call("mine.tar.gz", "bundles", "--keys", "keys", "--json").stdout)
    digest = pack("", Path("mine.tar.gz").read_bytes(), None, now=NOW).digest
    assert said == {
        "where": "bundles/mine.tar.gz",
        "pushed": True,
        "digest": digest,
        "sequence": 2,
        "tenant": "default",
        "before": None,
        "verified": True,
    }
    shown = call("mine.tar.gz", f"oci://{host}/team/command:live", "--unsafe-plaintext").stdout
    assert "✓ pushed mine.tar.gz" in shown
    assert f"oci://{host}/team/command@sha256:" in shown
    assert "not verified" in shown
    again = call("mine.tar.gz", f"oci://{host}/team/command:live", "--unsafe-plaintext").stdout
    assert "mine.tar.gz is there already" in again


@pytest.mark.usefixtures("desk")
def test_the_command_says_what_is_wrong_and_who_must_act():
    call("mine.tar.gz", "bundles")
    port = free_port()
    for code, words, why in (
        (1, ("old.tar.gz", "bundles"), "sequence 2 is there, this one is 1"),
        (1, ("old.tar.gz", "bundles", "--keys", "keys"), "`old.tar.gz`: the bundle expired"),
        (2, ("none.tar.gz", "bundles"), "it is not there"),
        (2, ("mine.tar.gz", "oci://host/policy"), "it must be oci://HOST"),
        (2, ("mine.tar.gz", f"oci://host/policy@sha256:{'0' * 64}"), "name a tag"),
        (2, ("mine.tar.gz", "s3://bucket/mine"), "it is no address of a server"),
        (2, ("mine.tar.gz", "http://localhost/mine"), "plain text has to be asked for"),
        (2, ("mine.tar.gz", "bundles", "--key", "old.tar.gz"), "`--certificate` and `--key` go together"),
        (2, ("mine.tar.gz", "nowhere/mine.tar.gz"), "`nowhere/mine.tar.gz`: cannot be written: no such file"),
        (2, ("mine.tar.gz", "typo"), "`typo`: there is no such folder: make it first, or name a file `*.tar.gz`"),
        (2, ("mine.tar.gz", "localhost:5000/team/mine:1"), "or `oci://localhost:5000/team/mine:1` where it is a reg"),
        (2, ("mine.tar.gz", "oci://host/policy:1", "--token", "none"), "`--token none`: it is not there"),
        (64, ("mine.tar.gz", "bundles", "--keys", "nowhere"), "`--keys nowhere`: "),
        (69, ("mine.tar.gz", f"https://localhost:{port}/b?x=secret"), f"`https://localhost:{port}/b`: it cannot be"),
    ):
        line = call(*words, code=code).stderr
        assert line.count("\n") == 1
        assert why in line
        assert "secret" not in line
