"""Servers that have bundles, for tests: Caddy, a registry and its client as the world runs them, and small ones of ours.

Ours are for what no honest server does, and for what Caddy does not: holding an answer until there is a newer bundle,
and taking one by PUT.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from exequatur.transport import TlsFiles
from stack import free_port, until

TOKEN = "s3cret-of-the-test"
PASSWORD = "secret"
_HTPASSWD = "publisher:$2a$04$6OTUyLag5Q1EhIPJD/7dSeXFwHdqlSonm46ju2ntqpZ8drUGbemAy\n"


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int, **environ: str) -> Iterator[None]:
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environ})
    try:
        until(lambda: process.poll() is not None or _listens(port), what=command[0])
        assert process.poll() is None, (folder / "server.log").read_text()
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def caddy(folder: Path, tls: TlsFiles, *, token: str = "", clients: bool = False) -> Iterator[str]:
    """Serve the files of `folder` over HTTPS; with `token`, or with `clients` to certificates of our roots alone."""
    port = free_port()
    home = folder.with_name(f"caddy-{port}")
    home.mkdir()
    wanted = f'header Authorization "Bearer {token}"' if token else "path *"
    verified = f"client_auth {{\n mode require_and_verify\n trust_pool file {tls.roots}\n }}" if clients else ""
    (home / "Caddyfile").write_text(
        "{\n admin off\n auto_https off\n persist_config off\n default_sni localhost\n}\n"
        f"https://127.0.0.1:{port}, https://localhost:{port} {{\n"
        f" tls {tls.certificate} {tls.key} {{\n {verified}\n }}\n"
        f" root * {folder}\n @known {wanted}\n handle @known {{\n file_server\n }}\n respond 401\n}}\n"
    )
    command = [os.environ["EXEQUATUR_CADDY"], "run", "--config", str(home / "Caddyfile"), "--adapter", "caddyfile"]
    with _running(command, home, port, XDG_DATA_HOME=str(home), XDG_CONFIG_HOME=str(home)):
        yield f"https://localhost:{port}"


@contextlib.contextmanager
def registry(folder: Path, *, tls: TlsFiles | None = None, auth: dict[str, object] | None = None) -> Iterator[str]:
    """Run a registry that keeps its blobs in `folder`; gives `HOST:PORT`."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}"}
    if tls is not None:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": http,
        **({"auth": auth} if auth else {}),
    }
    file = folder / "config.yml"
    file.write_text(json.dumps(config))
    with _running([os.environ["EXEQUATUR_REGISTRY"], "serve", str(file)], folder, port, OTEL_TRACES_EXPORTER="none"):
        yield f"localhost:{port}"


def htpasswd(folder: Path) -> dict[str, object]:
    """Let a registry know one publisher, by his name and `PASSWORD`."""
    file = folder / "htpasswd"
    file.write_text(_HTPASSWD)
    return {"htpasswd": {"realm": "registry", "path": str(file)}}


def blob_file(folder: Path, digest: str) -> Path:
    """Find where a registry keeps a blob."""
    name = digest.removeprefix("sha256:")
    return folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def oras(*arguments: str, cwd: Path) -> str:
    """Run `oras`, which nobody logged in."""
    done = subprocess.run(
        [os.environ["EXEQUATUR_ORAS"], *arguments],
        cwd=cwd,
        env={**os.environ, "DOCKER_CONFIG": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


Handler: TypeAlias = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Write an answer; a header's `_` is a `-`, and an empty one is left out."""
    given = {"Content_Length": str(len(body)), "Content_Type": "application/gzip", "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items() if value]
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{''.join(lines)}\r\n".encode() + body


def says(*replies: bytes) -> Handler:
    """Answer with each of `replies`, then with the last one."""
    left = list(replies)

    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return handler


@contextlib.asynccontextmanager
async def scripted(handler: Handler, *, tls: TlsFiles | None = None) -> AsyncIterator[str]:
    """Give each request to `handler`, one for each connection; gives the URL."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            await handler(Asked(method, path, headers, body), writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://localhost:{port}"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


@dataclass
class BundleServer:
    """A bundle service as OPA's documents describe it: ETags, long polling, and PUT for those who publish."""

    data: bytes | None = None
    holds: bool = True
    tags: bool = True
    asked: list[Asked] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while an answer is being held."""

    @property
    def etag(self) -> str:
        """Name what is there."""
        return f'"{hashlib.sha256(self.data or b"").hexdigest()[:16]}"' if self.tags else ""

    async def put(self, data: bytes) -> None:
        """Have another bundle, and tell those who wait."""
        async with self.changed:
            self.data = data
            self.changed.notify_all()

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.asked.append(asked)
        writer.write(await (self._put(asked) if asked.method == "PUT" else self._get(asked)))

    async def _get(self, asked: Asked) -> bytes:
        if self.data is None:
            return answer(404)
        known = asked.headers.get("if-none-match")
        kind = "application/vnd.openpolicyagent.bundles" if self.holds else "application/gzip"
        wait = [part for part in asked.headers.get("prefer", "").split(";") if part.startswith("wait=")]
        if self.holds and wait and known == self.etag:
            self.held.set()
            async with self.changed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self.changed.wait_for(lambda: known != self.etag), float(wait[0].removeprefix("wait="))
                    )
            self.held.clear()
        if known == self.etag:
            return answer(304, ETag=self.etag, Content_Type=kind, Content_Length="")
        return answer(200, self.data, ETag=self.etag, Content_Type=kind)

    async def _put(self, asked: Asked) -> bytes:
        wanted, only_new = asked.headers.get("if-match"), asked.headers.get("if-none-match") == "*"
        if (wanted and (self.data is None or wanted != self.etag)) or (only_new and self.data is not None):
            return answer(412)
        status = 201 if self.data is None else 204
        await self.put(asked.body)
        return answer(status, ETag=self.etag)


class TokenServer:
    """Gives tokens that a registry believes, to those who know the password, or to anybody."""

    def __init__(self, folder) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "tokens", "use": "sig", "alg": "ES256"})
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(json.dumps({"keys": [self.key.as_dict(private=False)]}))
        self.asked, self.anybody = [], True

    def auth(self, url: str) -> dict[str, object]:
        about = {"realm": f"{url}/token", "service": "registry", "issuer": "tokens", "jwks": str(self.jwks)}
        return {"token": about | {"signingalgorithms": ["ES256"]}}

    async def __call__(self, asked, writer) -> None:
        self.asked.append(asked)
        if not self.anybody and "authorization" not in asked.headers:
            writer.write(answer(401))
            return
        query = parse_qs(urlsplit(asked.path).query)
        kind, name, actions = query["scope"][0].split(":")
        now = int(time.time())
        claims = {"iss": "tokens", "sub": "x", "aud": query["service"][0], "exp": now + 60, "nbf": now - 5, "iat": now}
        claims |= {"jti": "1", "access": [{"type": kind, "name": name, "actions": actions.split(",")}]}
        token = jwt.encode({"alg": "ES256", "kid": "tokens", "typ": "JWT"}, claims, self.key)
        writer.write(answer(200, json.dumps({"token": token}).encode(), Content_Type="application/json"))
