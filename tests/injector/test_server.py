"""The injector as a process: over real TLS, with a certificate that changes under it, and with an orderly end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import httpx2
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from admission import CATALOGUE, annotated, pod, response, review
from injector.review import LIMITS
from pki import Authority
from stack import Process, free_port, http_get, until
from starts import refusal

JSON = {"content-type": "application/json"}


class Injector:
    """An injector in a folder, with its certificate as a kubelet puts it there, and who calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.health = folder, free_port(), free_port()
        self.authority = Authority(folder / "pki")
        self.catalogue = folder / "catalogue.json"
        self.catalogue.write_text(json.dumps(CATALOGUE))
        (folder / "tls").mkdir()
        for name in ("tls.crt", "tls.key"):
            (folder / "tls" / name).symlink_to(f"..data/{name}")
        self.shown = self.show("first")
        http = free_port()
        self.argv = [
            *("injector", "serve", f"--catalogue={self.catalogue}", f"--listen=127.0.0.1:{self.port}"),
            *(f"--tls-certificate={folder}/tls/tls.crt", f"--tls-key={folder}/tls/tls.key"),
            *(f"--http=127.0.0.1:{http}", f"--health=127.0.0.1:{self.health}", "--drain-grace-s=10"),
        ]
        self.process = Process("injector", self.argv, folder / "injector.log", http)

    def show(self, name: str, *, key_of: str = "") -> int:
        """Put another certificate in place, all at once; gives its number."""
        issued = self.authority.issue(name)
        key = self.authority.folder / f"{key_of or name}.key"
        version = self.folder / "tls" / f"..{name}"
        version.mkdir()
        (version / "tls.crt").write_bytes(issued.certificate.read_bytes())
        (version / "tls.key").write_bytes(key.read_bytes())
        link = self.folder / "tls" / "..new"
        link.symlink_to(version.name)
        link.rename(self.folder / "tls" / "..data")
        return x509.load_pem_x509_certificate(issued.certificate.read_bytes()).serial_number

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority.roots))

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"https://localhost:{self.port}", verify=self.trust, trust_env=False)

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(socket.create_connection(("127.0.0.1", self.port)), server_hostname="localhost")

    def serial(self) -> int:
        with self.connect() as connection:
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)).serial_number

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.process.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def injector(tmp_path_factory):
    injector = Injector(tmp_path_factory.mktemp("injector"))
    injector.process.start()
    yield injector
    injector.process.kill()


def counted(injector, webhook, result):
    wanted = f'exequatur_admissions_total{{result="{result}",webhook="{webhook}"}} '
    lines = http_get(injector.process.http, "/metrics")[1].splitlines()
    (line,) = [line for line in lines if line.startswith(wanted)]
    return float(line.removeprefix(wanted))


def test_it_injects_refuses_and_counts(injector):
    with injector.client() as client:
        given = client.post("/mutate", json=review(pod()))
        assert given.status_code == 200
        assert given.headers["content-type"] == "application/json"
        assert "patch" in response(given.content)
        given = client.post("/validate", json=review(annotated(pod(), agent="nobody")))
        assert given.status_code == 200
        assert response(given.content)["allowed"] is False
    assert counted(injector, "mutate", "allowed") >= 1
    assert counted(injector, "validate", "refused") >= 1
    assert any("no agent `nobody`" in line["message"] for line in injector.log())


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "text"),
    [
        ("GET", "/mutate", b"", {}, 405, ""),
        ("PUT", "/validate", b"{}", JSON, 405, ""),
        ("POST", "/", b"{}", JSON, 404, ""),
        ("POST", "/metrics", b"{}", JSON, 404, ""),
        ("POST", "/mutate", b"{}", {"content-type": "text/plain"}, 415, "the body must be application/json"),
        ("POST", "/mutate", b"{}", {}, 415, "the body must be application/json"),
        ("POST", "/mutate", b"{}", JSON, 400, "`apiVersion` must be admission.k8s.io/v1, and is nothing"),
        ("POST", "/mutate", b"", JSON, 400, "not JSON"),
        ("POST", "/mutate", b" " * (LIMITS.bytes + 1), JSON, 413, f"the body is over {LIMITS.bytes} bytes"),
    ],
)
def test_what_cannot_be_read_is_no_admission(injector, method, path, body, headers, status, text):
    with injector.client() as client:
        given = client.request(method, path, content=body, headers=headers)
    assert given.status_code == status
    assert text in given.text
    assert "allowed" not in given.text


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(injector):
    def endless():
        for _ in range(2**9):  # 32 MiB
            yield b" " * 2**16

    before = counted(injector, "mutate", "failed")
    # It answers and hangs up while we still write.
    with injector.client() as client, contextlib.suppress(httpx2.TransportError):
        assert client.post("/mutate", content=endless(), headers=JSON).status_code == 413
    until(lambda: counted(injector, "mutate", "failed") > before)


def test_nothing_older_than_tls_1_3_is_spoken(injector):
    trust = injector.trust
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", injector.port)) as plain, pytest.raises(ssl.SSLError):
        trust.wrap_socket(plain, server_hostname="localhost")


def test_a_kubelet_sees_that_it_lives_and_is_ready(injector):
    with grpc.insecure_channel(f"127.0.0.1:{injector.health}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("live", "ready"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == 1


def test_another_certificate_is_shown_without_a_restart_and_without_a_lost_connection(injector):
    with injector.client() as client:
        client.post("/mutate", json=review(pod()))
        before = injector.serial()
        second = injector.show("second")
        until(lambda: injector.serial() == second)
        assert before != second
        assert client.post("/mutate", json=review(pod())).status_code == 200
    injector.show("third", key_of="first")
    until(lambda: any("are no certificate and its key" in line["message"] for line in injector.log()))
    assert injector.serial() == second
    fourth = injector.show("fourth")
    until(lambda: injector.serial() == fourth)
    assert injector.process.popen.poll() is None


def test_what_was_begun_is_answered_before_it_stops(tmp_path):
    injector = Injector(tmp_path)
    injector.process.start()
    try:
        body = json.dumps(review(pod())).encode()
        head = (
            f"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        with injector.connect() as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body[:100])
            until(lambda: http_get(injector.process.http, "/readyz")[0] == 200)
            injector.process.popen.terminate()
            until(lambda: http_get(injector.process.http, "/readyz")[0] != 200)
            until(lambda: not _listens(injector.port))
            connection.sendall(body[100:])
            given = b"".join(iter(lambda: connection.recv(65536), b""))
        assert given.startswith(b"HTTP/1.1 200")
        assert response(given.partition(b"\r\n\r\n")[2])["allowed"] is True
        assert injector.process.popen.wait(timeout=60) == 0
    finally:
        injector.process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_says_in_one_line_why_it_does_not_start(tmp_path):
    injector = Injector(tmp_path)
    injector.catalogue.write_text('{"version": 1}')
    assert refusal(injector.argv, 64) == f"error: `{injector.catalogue}`: `image`: field required"
    injector.catalogue.write_text(json.dumps(CATALOGUE))
    injector.show("second", key_of="first")
    env = {name: value for name, value in os.environ.items() if not name.startswith("EXEQUATUR_")}
    command = [sys.executable, "-I", "-m", "exequatur", *injector.argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "are no certificate and its key" in done.stderr
