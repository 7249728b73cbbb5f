"""What a decision costs: ratios within one run, because machines are shared and noisy.

1. `Authorize`, one and two workers, records durable, against an empty grpcio handler: calls a second, p50, p99.
2. The same in batches of 50.
3. The decision alone, in process, among 10, 100, 1,000 and 10,000 Cedar policies, by the part of the scope that keeps
   the others away; how long they take to load; and where a decision's time goes.

Load comes from `ghz` (16 connections, 64 callers) on the same cores, in plain text on loopback; sixteen sessions.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import bank
from exequatur.action import Action
from exequatur.client import Client
from exequatur.spool import Spool
from exequatur.transport import UNSAFE_PLAINTEXT
from exequatur.trust.archive import write_archive
from exequatur.trust.canonical import canonical, parse
from exequatur.trust.opened import unsafe_read_unsigned
from pdp.engine.document import Facts
from pdp.engine.snapshot import Snapshot
from pdp.judge import judge
from pdp.model import Session
from pdp.policies import Standing
from stack import Process, free_port

ROOT = Path(__file__).parents[2]
GHZ = os.environ.get("EXEQUATUR_GHZ", "ghz")
SESSIONS, CONNECTIONS, CALLERS = 16, 16, 64
OTHERS = {
    "another tool": 'forbid (principal, action == Action::"bank/close", resource)\n'
    'when {{ context.input.account == "{n}" }};\n',
    "another resource": 'forbid (principal, action, resource == Tool::"{n}") when {{ context.session.steps > {n} }};\n',
    "another agent": 'forbid (principal == Agent::"clerk", action, resource) when {{ context.session.steps > {n} }};\n',
}
"""Policies that do not apply, by what keeps them away."""
console = Console()


def request(instance: str) -> dict[str, Any]:
    arguments = base64.b64encode(canonical({"account": "7"})).decode()
    return {"agent": "teller", "instance": instance, "tool": "bank/look", "arguments_json": arguments}


def load(address: str, method: str, data: object, total: int) -> dict[str, float]:
    """Put `total` calls on `address`; gives calls a second, and milliseconds at p50 and p99."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data, file)
        file.flush()
        command = [
            GHZ,
            "--insecure",
            "-i",
            str(ROOT / "proto"),
            "--proto",
            str(ROOT / "proto/exequatur/v1/decision.proto"),
        ]
        command += ["--call", f"exequatur.v1.DecisionService.{method}", "-D", file.name, "-c", str(CALLERS)]
        command += ["--connections", str(CONNECTIONS), "-n", str(total), "-O", "json"]
        # One processor for the load, and no templates: what it costs is not ours.
        command += ["--cpus=1", "--disable-template-functions", "--disable-template-data", address]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    codes = report["statusCodeDistribution"]
    if set(codes) != {"OK"}:
        raise SystemExit(f"error: calls failed: {codes}")
    points = {item["percentage"]: item["latency"] / 1e6 for item in report["latencyDistribution"]}
    return {"rps": report["rps"], "p50": points[50], "p99": points[99]}


@contextlib.contextmanager
def empty_handler() -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(Path(__file__).with_name("null_server.py")), address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield address
        process.terminate()


@contextlib.contextmanager
def decision_point(workers: int, *more: str, opens: bool = True) -> Iterator[str]:
    """Run one, with these settings too, and sessions for all callers, unless others have opened them."""
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        folder, http = Path(name), free_port()
        bundles, keys = bank.put(folder, policies=100)
        address = f"127.0.0.1:{free_port()}"
        argv = ["pdp", "serve", "--unsafe-plaintext", f"--listen={address}", f"--http=127.0.0.1:{http}"]
        argv += [f"--workers={workers}", f"--state={folder / 'state'}", f"--bundle={bundles}", f"--keys={keys}"]
        argv += [f"--openers={UNSAFE_PLAINTEXT}", "--log-level=warning", *more]
        process = Process("pdp", argv, folder / "pdp.log", http)
        process.start()
        try:
            with Client(address, unsafe_plaintext=True) as client:
                for number in range(SESSIONS if opens else 0):
                    client.open_session(
                        "teller",
                        UNSAFE_PLAINTEXT,
                        instance=f"i{number}",
                        lifetime=dt.timedelta(hours=1),
                        scope=["*"],
                        max_steps=10**7,
                        budget_microusd=10**9,
                    )
            yield address
        finally:
            process.stop()


def over_grpc(calls: int) -> None:
    """Measure the served product against the empty handler."""
    singles = [request(f"i{number}") for number in range(SESSIONS)]
    batches = [{"actions": [request(f"i{number}")] * 50} for number in range(SESSIONS)]
    table = Table(
        title=f"over gRPC: {CONNECTIONS} connections, {CALLERS} callers, {SESSIONS} sessions, records durable"
    )
    for column in ("", "decisions/s", "p50 ms", "p99 ms", "of the empty handler"):
        table.add_column(column, justify="left" if not column else "right")
    with empty_handler() as address:
        load(address, "Authorize", singles, calls // 4)
        empty = load(address, "Authorize", singles, calls)
        empty_batch = load(address, "AuthorizeBatch", batches, calls // 20)
    row(table, "empty grpcio handler, one process", empty, empty, 1)
    for workers in (1, 2):
        with decision_point(workers) as address:
            load(address, "Authorize", singles, calls // 4)
            row(table, f"Authorize, workers: {workers}", load(address, "Authorize", singles, calls), empty, 1)
            batch = load(address, "AuthorizeBatch", batches, calls // 20)
            row(table, f"batches of 50, workers: {workers}", batch, empty_batch, 50)
    console.print(table)


def row(table: Table, name: str, got: dict[str, float], empty: dict[str, float], size: int) -> None:
    ratio = got["rps"] / empty["rps"]
    table.add_row(name, f"{got['rps'] * size:,.0f}", f"{got['p50']:.2f}", f"{got['p99']:.2f}", f"{ratio:.3f}")


def microseconds(call: Callable[[], object], rounds: int = 7, number: int = 300) -> float:
    """The median of several rounds, in microseconds a call."""
    call()
    results = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(number):
            call()
        results.append((time.perf_counter() - start) / number * 1e6)
    return statistics.median(results)


def in_process() -> None:
    """Measure the decision alone, and its parts."""
    now = dt.datetime.now(dt.UTC)
    arguments = canonical({"account": "7"})
    action = Action.parse(
        tenant="default", agent="teller", instance="", session="", tool="bank/look", arguments_json=arguments
    )
    session = Session(
        "s", "default", "teller", "", bank.SIDECAR, now, now + dt.timedelta(hours=1), 10**7, 10**9, scope=("*",)
    )
    table = Table(title="the decision alone, in process (Cedar and Rego)")
    for column in ("Cedar policies", "others are for", "us a decision", "of that with 10", "s to load"):
        table.add_column(column, justify="right")
    for kind, scope in OTHERS.items():
        first = None
        for count in (10, 100, 1000, 10_000):
            files = {**bank.files(), "more.cedar": "".join(scope.format(n=n) for n in range(count)).encode()}
            begun = time.perf_counter()
            snapshot = Snapshot.load(unsafe_read_unsigned(write_archive(files)))
            load_s = time.perf_counter() - begun
            standing = Standing(snapshot)
            took = microseconds(
                lambda s=standing: judge(action, session, s, enforcer=bank.SIDECAR, now=now, decision_id="d")
            )
            first = first or took
            table.add_row(f"{count:,}", kind, f"{took:.0f}", f"{took / first:.2f}", f"{load_s:.2f}")
    console.print(table)
    parts = Table(title="where the time goes, us")
    parts.add_column("part")
    parts.add_column("us", justify="right")
    parts.add_row("parse and canonicalise the arguments", f"{microseconds(lambda: canonical(parse(arguments))):.1f}")
    tool = snapshot.registry.tools["bank/look"]
    parts.add_row("validate and map the resource", f"{microseconds(lambda: tool.resolve({'account': '7'})):.1f}")
    agent, resource = snapshot.agents["teller"], tool.resolve({"account": "7"})
    facts = Facts(agent, session, tool, resource, {"account": "7"}, action.claims, now, "cooperative")
    for spec, engine in snapshot.engines:
        parts.add_row(f"judge by {spec.engine}", f"{microseconds(lambda e=engine: e.judge(facts)):.0f}")
    outcome = judge(action, session, Standing(snapshot), enforcer=bank.SIDECAR, now=now, decision_id="d")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        spool = Spool.open(Path(name) / "spool", identity="bench")
        one = microseconds(lambda: spool.append_many([outcome.record]), number=50)
        many = microseconds(lambda: spool.append_many([outcome.record] * 50), number=10)
        parts.add_row("append one record durably", f"{one:.0f}")
        parts.add_row("append 50 records durably, each", f"{many / 50:.0f}")
        spool.close()
    console.print(parts)


if __name__ == "__main__":
    in_process()
    over_grpc(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
