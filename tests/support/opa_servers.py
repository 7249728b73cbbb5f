"""Real OPA servers for tests, of ours and of a team, and something that only looks like one."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from exequatur.trust.archive import write_archive
from pdp.engine.opa import revision_of
from pdp.opa import is_up
from pdp.opa_address import OpaAddress
from policies import opa
from stack import free_port, until

RULE = "exequatur/decision"
REGO = """package exequatur

default decision := {"allow": false}

decision := {"allow": true} if input.tool.name == "log"

decision := {"allow": time.parse_rfc3339_ns(input.when) > 0}

decision := {"allow": true} if http.send({"method": "get", "url": input.slow, "timeout": "60s"})

decision := {"allow": count(object.keys(opa.runtime().env) - {"HOME", "LC_CTYPE"}) == 0} if input.environment

decision := {"allow": true, "deny": [concat("", [input.text | some n in numbers.range(1, 2000)])]} if input.text
"""


def files(rego: str = REGO, **more: bytes) -> dict[str, bytes]:
    """Give a bundle's files with the revision of its content."""
    found = {"decision.rego": rego.encode(), ".manifest": b'{"roots": [""], "rego_version": 1}', **more}
    about = {"roots": [""], "rego_version": 1, "revision": revision_of(found)}
    return {**found, ".manifest": json.dumps(about).encode()}


def with_opa(files: dict[str, bytes]) -> dict[str, bytes]:
    """Let the engine `opa` judge what `rego` judged."""
    settings = json.loads(files["exequatur.json"])
    for engine in settings["engines"]:
        if engine["engine"] == "rego":
            engine["engine"] = "opa"
    left = {name: data for name, data in files.items() if name != "policy.wasm"}
    return {**left, "exequatur.json": json.dumps(settings).encode()}


def revision(rego: str = REGO) -> str:
    """Give the revision of `files(rego)`."""
    return revision_of(files(rego))


@contextlib.contextmanager
def team_server(
    folder: Path, bundle: dict[str, bytes], *options: str, scheme: str = "http", port: int | None = None
) -> Iterator[str]:
    """Run a server as a team would, on a port of loopback; gives its URL."""
    port = port or free_port()
    archive = folder / f"team-{port}.tar.gz"
    archive.write_bytes(write_archive(bundle))
    command = [opa(), "run", "--server", "--bundle", str(archive), "--addr", f"127.0.0.1:{port}"]
    with (folder / "team.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--skip-version-check", "--log-level", "error", *options], stdout=log, stderr=log
        )
    try:
        until(lambda: _listens(port), what="the team's OPA server")
        if not options:
            until(lambda: is_up(OpaAddress(url=f"http://127.0.0.1:{port}"), timeout_s=1))
        yield f"{scheme}://localhost:{port}" if scheme == "https" else f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def strange_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen on a port of loopback; each connection is given to `answer`. Gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with caller, contextlib.suppress(OSError):
                    caller.recv(65536)
                    answer(caller)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
