"""Bundles from a real registry: by tag and by digest, for those with the password, and only what digests say."""

from __future__ import annotations

import asyncio
import hashlib
import json
from urllib.parse import urlsplit

import pytest

from asking import PLAIN, Reader
from pdp.bundle.oci import LAYER_TYPE, MANIFEST_TYPE, OciAsker, Reference
from pdp.bundle.remote import PACE, RemoteSource
from pdp.bundle.source import SourceError
from pdp.bundle.web import WEB_LIMITS, Access
from pki import Authority
from publisher import NOW, publish
from web_servers import PASSWORD, TokenServer, answer, blob_file, htpasswd, oras, registry, scripted

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def host(disk):
    with registry(disk) as address:
        yield address


@pytest.fixture
def put(host, tmp_path):
    """Put a bundle into the registry with `oras`; gives the manifest's digest."""

    def put(data: bytes, name: str, *more: str, kind: str = f":{LAYER_TYPE}") -> str:
        (tmp_path / "bundle.tar.gz").write_bytes(data)
        told = oras(
            "push", "--plain-http", "--format", "json", f"{host}/{name}", f"bundle.tar.gz{kind}", *more, cwd=tmp_path
        )
        return json.loads(told)["digest"]

    return put


def remote(address: str, access: Access = PLAIN, limits=WEB_LIMITS) -> Reader:
    from dataclasses import replace

    return Reader(RemoteSource(OciAsker(address, access, limits), pace=replace(PACE, clock=lambda: NOW)))


async def fault(address: str, access: Access = PLAIN) -> str:
    """Ask once; what is wrong is said once."""
    reader = remote(address, access)
    (text,) = (await reader.ask()).faults
    assert (await reader.ask()).faults == ()
    prefix = f"`{address}`: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


async def test_a_tag_is_followed_and_a_digest_is_not(host, put):
    first = put(publish(1), "team/policy:live")
    tagged, pinned = remote(f"oci://{host}/team/policy:live"), remote(f"oci://{host}/team/policy@{first}")
    assert (await tagged.ask()).found.bundle.sequence == 1
    assert (await pinned.ask()).found.bundle.sequence == 1
    before = tagged.source._got.data
    assert (await tagged.ask()).found is None
    assert tagged.source._got.data is before
    put(publish(2), "team/policy:live")
    assert (await tagged.ask()).found.bundle.sequence == 2
    assert (await pinned.ask()).found is None
    assert pinned.confirmed_at == NOW


@pytest.mark.parametrize("kind", ["", ":application/gzip", ":application/vnd.openpolicyagent.bundles"])
async def test_what_oras_calls_a_bundle_is_looked_at(host, put, kind):
    put(publish(1), "kinds:v1", kind=kind)
    assert (await remote(f"oci://{host}/kinds:v1").ask()).found is not None


async def test_what_is_no_bundle_is_refused(host, put, tmp_path):
    put(publish(1), "odd:json", kind=":application/json")
    assert await fault(f"oci://{host}/odd:json") == "the layer is `application/json`, which is no bundle"
    (tmp_path / "more.txt").write_text("hello")
    put(publish(1), "odd:two", "more.txt")
    assert await fault(f"oci://{host}/odd:two") == "the manifest has 2 layers: a bundle is one"
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    (tmp_path / "index.json").write_text(json.dumps(index))
    oras(
        "manifest", "push", "--plain-http", "--media-type", INDEX_TYPE, f"{host}/odd:index", "index.json", cwd=tmp_path
    )
    said = await fault(f"oci://{host}/odd:index")
    assert said == f"what it has is `{INDEX_TYPE}`, and no manifest of one bundle"
    assert "it answers with 404: not found: look at the address" in await fault(f"oci://{host}/odd:nothing")
    put(bytes(WEB_LIMITS.body_bytes + 1), "odd:large")
    assert "bytes: at most 16777216 are taken" in await fault(f"oci://{host}/odd:large")


async def test_a_layer_that_is_not_what_its_digest_says_is_refused_and_what_is_served_stays(host, put, disk):
    put(publish(1), "team/rotten:live")
    reader = remote(f"oci://{host}/team/rotten:live")
    await reader.ask()
    data = publish(2)
    put(data, "team/rotten:live")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    for spoiled in (data[:-1] + b"x", data[:-1], data + b"x", b""):
        blob_file(disk, digest).write_bytes(spoiled)
        faults = (await reader.ask()).faults
        reader.source._said.clear()
        # Of what is too short or too long, the connection tells first.
        assert "size or its digest differs" in faults[0] or "at most" in faults[0] or "breaks off" in faults[0]
    assert reader.sequence == 1
    blob_file(disk, digest).write_bytes(data)
    assert (await reader.ask()).found.bundle.sequence == 2


async def test_a_manifest_that_is_not_what_was_pinned_is_refused(host, put, disk):
    digest = put(publish(1), "team/forged:v1")
    other = put(publish(2), "team/forged:v2")
    blob_file(disk, digest).write_bytes(blob_file(disk, other).read_bytes())
    said = await fault(f"oci://{host}/team/forged@{digest}")
    assert "the manifest is not the one that is pinned" in said


async def test_a_tag_that_moves_between_manifest_and_layer_mixes_nothing(host, put, disk):
    """Only the manifest is asked for by its tag; its layer is that layer, or nothing."""
    old, new = publish(1), publish(2)
    put(old, "team/moving:live")
    moved = asyncio.Event()

    async def proxy(asked, writer) -> None:
        import httpx2

        async with httpx2.AsyncClient(trust_env=False) as client:
            reply = await client.get(
                f"http://{host}{asked.path}", headers={"Accept": asked.headers.get("accept", "*/*")}
            )
        if "/manifests/" in asked.path and not moved.is_set():
            moved.set()
            await asyncio.to_thread(put, new, "team/moving:live")
        writer.write(
            answer(
                reply.status_code,
                reply.content,
                Content_Type=reply.headers.get("content-type", ""),
                Docker_Content_Digest=reply.headers.get("docker-content-digest", ""),
            )
        )

    async with scripted(proxy) as url:
        reader = remote(f"oci://{urlsplit(url).netloc}/team/moving:live")
        assert (await reader.ask()).found.bundle.sequence == 1
        assert (await reader.ask()).found.bundle.sequence == 2


async def test_a_layer_that_was_removed_meanwhile_is_told(host, put, disk):
    data = publish(1)
    put(data, "team/gone:live")
    blob_file(disk, f"sha256:{hashlib.sha256(data).hexdigest()}").unlink()
    assert "is not there any more" in await fault(f"oci://{host}/team/gone:live")


# Who may.


async def test_a_registry_that_wants_a_name_and_a_password(tmp_path):
    auth = htpasswd(tmp_path)
    (tmp_path / "bundle.tar.gz").write_bytes(publish(1))
    token = tmp_path / "token"
    with registry(tmp_path / "disk", auth=auth) as host:
        oras(
            *("push", "--plain-http", "-u", "publisher", "-p", PASSWORD),
            *(f"{host}/policy:live", f"bundle.tar.gz:{LAYER_TYPE}"),
            cwd=tmp_path,
        )
        address = f"oci://{host}/policy:live"
        assert "it answers with 401" in await fault(address)
        access = Access(token=token, unsafe_plaintext=True)
        for wrong in ("publisher:guess", "a-token-of-another-kind"):
            token.write_text(wrong)
            assert "it answers with 401" in await fault(address, access)
        token.write_text(f"publisher:{PASSWORD}\n")
        assert (await remote(address, access).ask()).found.bundle.sequence == 1


async def test_a_registry_that_names_a_token_server(tmp_path):
    tokens, data = TokenServer(tmp_path), publish(1)
    (tmp_path / "bundle.tar.gz").write_bytes(data)
    async with scripted(tokens) as url:
        with registry(tmp_path / "disk", auth=tokens.auth(url)) as host:
            push = ("push", "--plain-http", f"{host}/policy:live", f"bundle.tar.gz:{LAYER_TYPE}")
            await asyncio.to_thread(lambda: oras(*push, cwd=tmp_path))
            tokens.asked.clear()
            address, token = f"oci://{host}/policy:live", tmp_path / "token"
            assert (await remote(address).ask()).found.bundle.sequence == 1  # anybody may read
            assert len(tokens.asked) == 1  # one token for manifest and layer
            tokens.anybody = False
            assert "its token server answers with 401" in await fault(address)
            token.write_text(f"publisher:{PASSWORD}")
            access = Access(token=token, unsafe_plaintext=True)
            assert (await remote(address, access).ask()).found is not None
            assert tokens.asked[-1].headers["authorization"].startswith("Basic ")


async def test_a_password_is_no_token_and_a_token_is_no_password(tmp_path):
    """A password goes to who asks for one; a token of ours is sent, and not given up for anybody's."""
    asked, token = [], tmp_path / "token"

    async def handler(request, writer) -> None:
        asked.append(request)
        host = request.headers["host"]
        writer.write(answer(401, WWW_Authenticate=f'Bearer realm="http://{host}/token",scope="x"'))

    async with scripted(handler) as url:
        address, access = f"oci://{urlsplit(url).netloc}/policy:live", Access(token=token, unsafe_plaintext=True)
        token.write_text("name:password")
        await remote(address, access).ask()
        assert [request.headers.get("authorization", "")[:5] for request in asked] == ["", "Basic"]
        assert asked[1].path == "/token?scope=x"
        asked.clear()
        token.write_text("a-token")
        await remote(address, access).ask()
        assert [request.headers["authorization"] for request in asked] == ["Bearer a-token"]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ('Bearer realm="http://tokens.example/token"', "plain text has to be asked for"),
        ('Bearer realm="https://a:b/"', "its token server gives no token"),
        ("Bearer", "it answers with 401"),
        ("Bearer realm", "it answers with 401"),
        ("Negotiate", "it answers with 401"),
        ("", "it answers with 401"),
    ],
)
async def test_a_strange_challenge_is_not_answered(header, why):
    async def handler(_, writer) -> None:
        writer.write(answer(401, WWW_Authenticate=header))

    async with scripted(handler) as url:
        assert why in await fault(f"oci://{urlsplit(url).netloc}/policy:live")


# What a registry that lies may say.


def manifest(data: bytes, **changed: object) -> bytes:
    layer = {"mediaType": LAYER_TYPE, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [layer | changed]}).encode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[]", "the manifest has 0 layers: a bundle is one"),
        (b"{", "the manifest cannot be read"),
        (manifest(b"x", digest="md5:aa"), "of which type, size and SHA-256"),
        (manifest(b"x", digest="sha256:../../../etc"), "of which type, size and SHA-256"),
        (manifest(b"x", size=-1), "the layer has -1 bytes"),
        (manifest(b"x", size=5 * 2**30), "the layer has 5368709120 bytes: at most 16777216 are taken"),
        (manifest(b"x", size="1"), "of which type, size and SHA-256"),
        (b'{"layers": [' + b" " * 300_000, "it would send"),
    ],
)
async def test_a_manifest_that_describes_no_bundle_is_refused(body, why):
    async def handler(_, writer) -> None:
        writer.write(answer(200, body, Content_Type=MANIFEST_TYPE))

    async with scripted(handler) as url:
        assert why in await fault(f"oci://{urlsplit(url).netloc}/policy:live")


async def test_a_manifest_with_another_digest_than_the_registry_says_is_refused():
    async def handler(_, writer) -> None:
        writer.write(answer(200, b"{}", Content_Type=MANIFEST_TYPE, Docker_Content_Digest=f"sha256:{'0' * 64}"))

    async with scripted(handler) as url:
        assert "is not what the registry says it is" in await fault(f"oci://{urlsplit(url).netloc}/policy:live")
        pinned = f"oci://{urlsplit(url).netloc}/policy@sha256:{'0' * 64}"
        assert "is not the one that is pinned" in await fault(pinned)


async def test_a_layer_may_come_from_elsewhere_which_hears_nothing_of_us(tmp_path):
    """Registries keep layers in stores of others; what comes from there is held against its digest."""
    authority, data, heard = Authority(tmp_path), publish(1), []
    tls, token = authority.issue("server"), tmp_path / "token"
    token.write_text("for-the-registry-alone")

    async def store(asked, writer) -> None:
        heard.append(asked)
        writer.write(answer(200, data))

    async with scripted(store, tls=tls) as elsewhere:

        async def handler(asked, writer) -> None:
            assert asked.headers["authorization"] == "Bearer for-the-registry-alone"
            if "/blobs/" in asked.path:
                writer.write(answer(307, Location=f"{elsewhere}/there"))
            else:
                writer.write(answer(200, manifest(publish(1) if lies else data), Content_Type=MANIFEST_TYPE))

        lies = False
        async with scripted(handler, tls=tls) as url:
            address, access = f"oci://{urlsplit(url).netloc}/policy:live", Access(token=token, roots=authority.roots)
            assert (await remote(address, access).ask()).found.bundle.sequence == 1
            assert "authorization" not in heard[0].headers
            lies = True
            assert "size or its digest differs" in await fault(address, access)


@pytest.mark.parametrize("challenge", ['Bearer realm="https://{host}/steal"', 'Basic realm="x"'])
async def test_a_store_elsewhere_that_asks_for_a_password_is_given_none(tmp_path, challenge):
    """It is anybody whom the registry names: its challenge would have our password sent wherever it likes."""
    authority, heard = Authority(tmp_path), []
    tls, token = authority.issue("server"), tmp_path / "token"
    token.write_text("name:password")

    async def store(asked, writer) -> None:
        heard.append((asked.path, asked.headers.get("authorization", "")))
        writer.write(answer(401, WWW_Authenticate=challenge.format(host=asked.headers["host"])))

    async with scripted(store, tls=tls) as elsewhere:

        async def handler(asked, writer) -> None:
            if "/blobs/" in asked.path:
                writer.write(answer(307, Location=f"{elsewhere}/there"))
            else:
                writer.write(answer(200, manifest(publish(1)), Content_Type=MANIFEST_TYPE))

        async with scripted(handler, tls=tls) as url:
            address, access = f"oci://{urlsplit(url).netloc}/policy:live", Access(token=token, roots=authority.roots)
            assert "it answers with 401" in await fault(address, access)
    assert set(heard) == {("/there", "")}


async def test_what_has_not_changed_is_not_read_again():
    """Registries count who reads a manifest, and let them read so many in an hour."""
    asked, data = [], publish(1)

    async def handler(request, writer) -> None:
        asked.append(request.method)
        body = data if "/blobs/" in request.path else manifest(data)
        said = f"sha256:{hashlib.sha256(body).hexdigest()}"
        reply = answer(200, body, Content_Type=MANIFEST_TYPE, Docker_Content_Digest=said)
        writer.write(reply if request.method == "GET" else reply[: -len(body)])

    async with scripted(handler) as url:
        reader = remote(f"oci://{urlsplit(url).netloc}/policy:live")
        await reader.ask()
        await reader.ask()
        assert asked == ["GET", "GET", "HEAD"]
        data = publish(2)
        assert (await reader.ask()).found.bundle.sequence == 2
        assert asked[3:] == ["HEAD", "GET", "GET"]


async def test_a_manifest_comes_from_nowhere_else(tmp_path):
    async def handler(_, writer) -> None:
        writer.write(answer(307, Location="https://elsewhere.example/v2/policy/manifests/live"))

    async with scripted(handler) as url:
        assert "it redirects to `elsewhere.example`" in await fault(f"oci://{urlsplit(url).netloc}/policy:live")


@pytest.mark.parametrize(
    "address",
    [
        "oci://host/policy",
        "oci://host/Policy:v1",
        "oci://host/a/../b:v1",
        "oci://host/policy@sha256:abc",
        "oci://host/policy@md5:d41d8cd98f00b204e9800998ecf8427e",
        "oci://name:password@host/policy:v1",
        "oci://host/policy:v1?x=y",
        "oci:///policy:v1",
    ],
)
def test_an_address_names_a_tag_or_a_digest(address):
    with pytest.raises(SourceError, match="it must be oci://HOST"):
        Reference.parse(address)
