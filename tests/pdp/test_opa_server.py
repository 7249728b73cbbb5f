"""Servers of ours: nobody else's to ask or change, gone when we are, back when they die, and one a bundle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from exequatur.trust.archive import write_archive
from opa_servers import REGO, RULE, files, revision, team_server
from pdp import opa_server
from pdp.engine.opa import revision_of, revisions_in
from pdp.engine.reading import PolicyError
from pdp.opa import Connection, is_up, look
from pdp.opa_address import OpaAddress
from pdp.opa_server import NotReadyError, OpaServers, check, temporary
from policies import opa
from processes import children, freeze, runs
from stack import until

OPA = Path(opa())
OTHER = REGO.replace('"log"', '"other"')


@pytest.fixture
def tmp_path():
    """A folder whose name leaves room for a socket's: `sockaddr_un` holds 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def address():
    with temporary(files(), OPA) as found:
        yield found


@pytest.fixture
async def servers(tmp_path):
    async with OpaServers(tmp_path / "serving") as made:
        yield made


async def hold(servers, rego=REGO, digest="1" * 64) -> Path:
    return await servers.hold(digest, files(rego), OPA, RULE, revision(rego))


def test_the_socket_is_its_owners_alone(address):
    assert stat.S_IMODE(address.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(address.socket.parent.stat().st_mode) == 0o700


def test_nobody_can_change_what_it_holds(address):
    connection = Connection(address, timeout_s=5)
    client = connection._client
    session, url = client._session, client.root_url
    for put in (
        lambda: session.put(f"{url}/policies/decision.rego", data="package exequatur\ndecision := {}", timeout=5),
        lambda: session.put(f"{url}/policies/new", data="package exequatur\ndecision := {}", timeout=5),
        lambda: session.put(f"{url}/data/exequatur", json={}, timeout=5),
        lambda: session.delete(f"{url}/policies/decision.rego", timeout=5),
    ):
        assert not put().ok
    assert connection.ask(RULE, {"tool": {"name": "log"}})["result"] == {"allow": True}
    connection.close()


def test_a_policy_sees_nothing_of_our_environment(address, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    with temporary(files(), OPA) as fresh:
        connection = Connection(fresh, timeout_s=5)
        body = connection.ask(RULE, {"environment": True})
        connection.close()
    assert body["result"] == {"allow": True}


@pytest.mark.parametrize(
    ("rego", "words"),
    [
        ("package a\n\nx := ", "`decision.rego:3`: unexpected eof token"),
        ("package a\n\nx := nothing(1)\n", "`decision.rego:3`: undefined function nothing"),
    ],
)
def test_a_bundle_on_which_it_does_not_start_is_refused_with_its_words(rego, words):
    before = children(os.getpid(), "exequatur-opa-")
    with pytest.raises(PolicyError, match=words), temporary(files(rego), OPA):
        pass
    assert children(os.getpid(), "exequatur-opa-") == before


def test_a_path_that_no_socket_can_have_is_refused(tmp_path):
    deep = tmp_path / ("d" * 100)
    with pytest.raises(NotReadyError, match="too long for the socket"):
        opa_server.OpaServer(OPA, deep / "b", deep / "s")


def test_it_has_gone_when_its_parent_has(tmp_path):
    """Even after `kill -9`: an orphan would hold the memory of a policy that nobody judges by."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom pdp.opa_server import temporary\nimport opa_servers\n"
        f"with temporary(opa_servers.files(), Path({str(OPA)!r})) as at:\n"
        "    print(at.socket, flush=True)\n    time.sleep(60)\n"
    )
    environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ) as parent:
        socket = parent.stdout.readline().decode().strip()
        (pid,) = children(parent.pid, socket)
        parent.kill()
    until(lambda: not runs(pid), what="its end")


async def test_one_that_is_killed_is_started_again(servers):
    socket = await hold(servers)
    (pid,) = children(os.getpid(), str(socket))
    os.kill(pid, signal.SIGKILL)
    await _until(
        lambda: children(os.getpid(), str(socket)) not in ([], [pid]) and is_up(OpaAddress(socket), timeout_s=1)
    )
    assert revisions_in(look(OpaAddress(socket), RULE, timeout_s=1)) == [revision()]


async def test_a_signal_that_everybody_gets_does_not_end_it_before_us(servers):
    socket = await hold(servers)
    (pid,) = children(os.getpid(), str(socket))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
        await asyncio.sleep(0.2)  # it would be gone by then
        assert revisions_in(look(OpaAddress(socket), RULE, timeout_s=1)) == [revision()]


async def test_one_that_hangs_is_killed_and_started_again(servers, monkeypatch):
    monkeypatch.setattr(opa_server, "WATCH_S", 0.2)
    socket = await hold(servers)
    (pid,) = children(os.getpid(), str(socket))
    await asyncio.sleep(1)  # it has said that it is up
    freeze(pid)
    await _until(
        lambda: children(os.getpid(), str(socket)) not in ([], [pid]) and is_up(OpaAddress(socket), timeout_s=1)
    )


async def test_each_bundle_has_its_own_server_until_nobody_judges_by_it(servers):
    old, new = await hold(servers, digest="1" * 64), await hold(servers, OTHER, digest="2" * 64)
    assert [revisions_in(look(OpaAddress(at), RULE, timeout_s=1)) for at in (old, new)] == [
        [revision()],
        [revision(OTHER)],
    ]
    await servers.retire({"1" * 64, "2" * 64})
    await servers.retire({"2" * 64})
    assert is_up(OpaAddress(old), timeout_s=1), "a round that was begun may still ask"
    await servers.retire({"2" * 64})
    assert not is_up(OpaAddress(old), timeout_s=1)
    assert is_up(OpaAddress(new), timeout_s=1)
    assert len(children(os.getpid(), str(new.parent))) == 1


async def test_nothing_is_left_of_it(tmp_path):
    async with OpaServers(tmp_path) as servers:
        await hold(servers)
    assert list(tmp_path.iterdir()) == []
    assert children(os.getpid(), str(tmp_path)) == []


async def test_what_a_crash_left_is_gone_at_the_next_start(tmp_path):
    (tmp_path / "1.sock").touch()
    (tmp_path / "1.opa").touch()
    async with OpaServers(tmp_path):
        assert list(tmp_path.iterdir()) == []


async def test_a_server_with_another_bundle_is_not_ready(tmp_path):
    with team_server(tmp_path, files(OTHER)) as url:
        await check(OpaAddress(url=url), RULE, revision(OTHER))
        with pytest.raises(NotReadyError, match=rf"has the revision `{revision(OTHER)}`, and not yet `{revision()}`"):
            await check(OpaAddress(url=url), RULE, revision())
    with pytest.raises(NotReadyError, match="it cannot be reached"):
        await check(OpaAddress(url=url), RULE, revision())


async def _until(condition) -> None:
    await asyncio.to_thread(until, condition)


async def test_a_teams_server_of_several_tenants_answers_each_by_its_own_bundle(tmp_path):
    def bundle(tenant):
        found = {"decision.rego": REGO.replace("package exequatur", f"package {tenant}").encode()}
        about = {"roots": [tenant], "rego_version": 1}
        found[".manifest"] = json.dumps(about).encode()
        found[".manifest"] = json.dumps({**about, "revision": revision_of(found)}).encode()
        return found

    acme, zoo = bundle("acme"), bundle("zoo")
    (tmp_path / "zoo.tar.gz").write_bytes(write_archive(zoo))
    with team_server(tmp_path, acme, str(tmp_path / "zoo.tar.gz")) as url:
        address = OpaAddress(url=url)
        await _until(lambda: is_up(address, timeout_s=1))
        for tenant, files in (("acme", acme), ("zoo", zoo)):
            await check(address, f"{tenant}/decision", revision_of(files), shared=True)
            with pytest.raises(NotReadyError, match="not one bundle"):
                await check(address, f"{tenant}/decision", revision_of(files))
        with pytest.raises(NotReadyError):
            await check(address, "acme/decision", "another", shared=True)
