"""`exequatur demo`: the way of one action, all of it, on this machine.

Ledger, decision point and sidecar run as real processes with mutual TLS; the published `mcp-server-git` stands behind
the shim on a scratch repository; the official MCP client makes the calls. What is shown afterwards is what the ledger
holds. Rules: nothing is left running and nothing is left behind; the exit code is 1 if anything was decided in another
way than the story says.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from exequatur.cli.console import EFFECT_STYLES, Exit, console, errors, fail
from exequatur.cli.data import data_dir
from exequatur.cli.demo_stage import (
    Authority,
    Stage,
    StageError,
    cancelled_by_signals,
    command,
    environment,
    free_ports,
    git,
)
from exequatur.client import CallError, Client, Intent, Tls
from exequatur.record import decode
from exequatur.trust.keys import generate, load_log_key
from exequatur.trust.note import LogKey
from exequatur.verifier import Report, verify

SIDECAR: Final = "spiffe://example.com/sidecar/coder"
"""The enforcer that the development bundle's inventory binds to the agent `coder`."""

ORCHESTRATOR: Final = "spiffe://example.com/orchestrator"
PDP: Final = "spiffe://example.com/pdp"
LEDGER: Final = "spiffe://example.com/ledger"
ORIGIN: Final = "example.com/demo"
SHOWN: Final = 30
SECRET: Final = "TOKEN=not-a-real-one\n"  # noqa: S105 - what the story's agent must not read

FILES: Final = {
    "src/app.py": 'print("hello")\n',
    "README.md": "# A scratch repository\n",
    ".env": SECRET,
    ".github/workflows/ci.yml": "on: push\n",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the story: the tool, its arguments but for the repository, and what must be decided."""

    tool: str
    arguments: dict[str, Any]
    effect: str
    why: str = ""
    """The policy that must say so, or the kind of reason."""


STORY: Final = (
    Call("git_status", {}, "allow"),
    Call("git_show", {"revision": "HEAD:src/app.py"}, "allow"),
    Call("git_show", {"revision": "HEAD:.env"}, "deny", "files.secret"),
    Call("git_log", {"repo_path": "/root", "max_count": 1}, "deny", "files.outside-workspace"),
    Call("git_create_branch", {"branch_name": "fix/greeting"}, "allow"),
    Call("git_checkout", {"branch_name": "fix/greeting"}, "warn", "git.checkout"),
    Call("git_add", {"files": [".github/workflows/ci.yml"]}, "deny", "files.protected"),
    Call("git_add", {"files": ["*.py"]}, "deny", "git.pathspec"),
    Call("git_add", {"files": ["src/app.py"]}, "allow"),
    Call("git_commit", {"message": "Use AKIAIOSFODNN7EXAMPLE"}, "deny", "files.key-material"),
    Call("git_reset", {}, "require_approval", "git.reset"),
    Call("git_log", {"max_count": "2; rm -rf /"}, "deny", "invalid"),
    Call("git_commit", {"message": "Greet by name"}, "allow"),
    Call("git_log", {"max_count": 2}, "deny", "exhausted"),
)
"""The last call is one more than the session may make."""

NEXT: Final = """\
[bold]Where to look next[/]
  policies/coding-agent     the rules that decided, and their cases
  exequatur authorize       ask a bundle about an action of yours
  exequatur bundle init     start policies of your own
  docs/guard-an-agent.md    put your agent behind the sidecar
"""

MAX_STEPS: Final = sum(call.effect in ("allow", "warn") for call in STORY)


def demo(
    keep: Annotated[
        Path | None, typer.Option(help="a new folder for a copy of the log and the key that verifies it")
    ] = None,
) -> None:
    """Run it all on this machine: ledger, decision point, sidecar, a real MCP server and a real client."""
    if keep is not None and keep.exists():
        fail(f"`{keep}` is there already: name a new folder")
    if shutil.which("git") is None:
        fail("`git` is not on the path: install it from your packages", Exit.UNREACHABLE)
    started = time.monotonic()
    try:
        surprises = asyncio.run(_demo(keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("stopped; nothing is left running, and nothing was left behind")
        raise typer.Exit(130) from None
    except ImportError as error:
        fail(f"the demo needs `{error.name}`: pip install 'exequatur[demo]'", Exit.UNREACHABLE)
    except (StageError, CallError, FileNotFoundError) as error:
        fail(str(error), Exit.UNREACHABLE)
    took = time.monotonic() - started
    left = "was left behind" if keep is None else f"is left but `{keep}`"
    console.print(f"[dim]{took:.1f} s. Nothing is running any more, and nothing {left}.[/]")
    if surprises:
        fail("; ".join(surprises), Exit.NO)


async def _demo(keep: Path | None) -> list[str]:
    """Play the story and show what the ledger holds of it; gives what was decided in another way than it says."""
    starting = "starting ledger, decision point and sidecar"
    with cancelled_by_signals() as go_on, errors.status(starting) as status:
        async with Stage() as stage:
            house = await _start(stage)
            repository = _repository(stage)
            took_ms = await _play(house, repository, status)
            go_on()
            status.update("stopping: each hands on what it has recorded")
            await stage.stop()
            go_on()
            report = verify(house.log, house.log_key)
            records = _records(house.log)
            if keep is not None:
                shutil.copytree(house.log, keep / "log")
                (keep / "ledger.vkey").write_text(f"{house.log_key}\n")
    decisions = [record for record in records if record["kind"] == "decision"]
    console.print(_table(decisions, took_ms))
    _say_what_was_proved(report, records)
    told = [] if len(decisions) == len(STORY) else [f"{len(STORY)} calls were made, {len(decisions)} are on record"]
    return told + [
        f"`{call.tool}` was to be {call.effect} by `{call.why or 'any'}` and was {record['effect']}"
        for call, record in zip(STORY, decisions, strict=False)
        if record["effect"] != call.effect or call.why not in ("", *_because(record))
    ]


@dataclass(frozen=True, slots=True)
class House:
    """What is running, as far as the story needs it. `log_key` is the ledger's C2SP verifier key."""

    pdp: str
    orchestrator: Tls
    socket: Path
    log: Path
    log_key: str


async def _start(stage: Stage) -> House:
    """Start the three daemons side by side, and wait for them."""
    folder = stage.folder("exequatur-house-")
    authority = Authority(folder / "pki")
    pdp, ledger, *https = free_ports(5)
    socket, log = folder / "sockets" / "coder.sock", folder / "log"
    socket.parent.mkdir(mode=0o700)
    private, _ = generate("Ed25519")
    (folder / "log.key").touch(mode=0o600)
    (folder / "log.key").write_bytes(private)
    log_key = str(LogKey(ORIGIN, load_log_key(private).public_key()))
    (folder / "log.vkey").write_text(log_key)
    bundles = data_dir()

    def reach(name: str, identity: str, http: int) -> list[str]:
        return [*authority.issue(name, identity).flags(), f"--http=127.0.0.1:{http}", "--log-level=warning"]

    await stage.start(
        "ledger",
        *("ledger", "serve", f"--folder={log}", f"--origin={ORIGIN}", f"--key={folder / 'log.key'}"),
        *(f"--listen=127.0.0.1:{ledger}", f"--writers={PDP}", f"--writers={SIDECAR}"),
        *reach("ledger", LEDGER, https[0]),
    )
    await stage.start(
        "decision point",
        *("pdp", "serve", f"--bundle={bundles / 'coding-agent.tar.gz'}", f"--keys={bundles / 'keys'}"),
        *(f"--listen=127.0.0.1:{pdp}", f"--state={folder / 'state'}", f"--openers={ORCHESTRATOR}"),
        *(f"--ledger=127.0.0.1:{ledger}", f"--log-key={folder / 'log.vkey'}"),
        *reach("pdp", PDP, https[1]),
    )
    await stage.start(
        "sidecar",
        *("sidecar", "run", f"--agents=agent=coder,socket={socket},door=mcp_stdio", f"--spool={folder / 'spool'}"),
        *(f"--pdp=127.0.0.1:{pdp}", f"--ledger=127.0.0.1:{ledger}", f"--log-key={folder / 'log.vkey'}"),
        *reach("sidecar", SIDECAR, https[2]),
    )
    orchestrator = authority.issue("orchestrator", ORCHESTRATOR)
    await stage.ready(https)
    tls = Tls(orchestrator.certificate, orchestrator.key, orchestrator.roots)
    return House(f"127.0.0.1:{pdp}", tls, socket, log, log_key)


def _repository(stage: Stage) -> Path:
    """Make the scratch repository: one commit, and one change that is not staged."""
    folder = stage.folder("exequatur-demo-")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("config", "user.name", "coder"),
        ("config", "user.email", "coder@example.com"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=Begin"),
    ):
        git(folder, *arguments)
    (folder / "src/app.py").write_text('print("hello, you")\n')
    return folder


async def _play(house: House, repository: Path, status: Status) -> list[float]:
    """Open the session, and make the calls through the shim; gives how long each took, in milliseconds."""
    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415 - half a second, for the demo alone
    from mcp.client.stdio import stdio_client  # noqa: PLC0415

    with Client(house.pdp, tls=house.orchestrator) as client:
        session = await asyncio.to_thread(
            client.open_session,
            *("coder", SIDECAR),
            lifetime=dt.timedelta(minutes=10),
            scope=["git/*"],
            max_steps=MAX_STEPS,
            budget_microusd=1_000_000,
            intent=Intent("fix-issue", "greet whoever starts the program", ("code",)),
            subject="you",
        )
    server = (sys.executable, "-I", "-m", "mcp_server_git", "--repository", str(repository))
    shim = command("sidecar", "mcp", "--server=git", f"--socket={house.socket}", "--", *server)
    parameters = StdioServerParameters(command=shim[0], args=shim[1:], env=environment())
    took_ms = []
    with (house.log.parent / "shim.log").open("w") as words:
        try:
            async with stdio_client(parameters, errlog=words) as streams, ClientSession(*streams) as agent:
                await agent.initialize()
                tools = await agent.list_tools()
                for number, call in enumerate(STORY, start=1):
                    status.update(f"session {session.id}, {len(tools.tools)} tools: call {number} of {len(STORY)}")
                    started = time.perf_counter()
                    await agent.call_tool(call.tool, {"repo_path": str(repository), **call.arguments})
                    took_ms.append((time.perf_counter() - started) * 1000)
        except Exception as error:  # the client raises groups of its own
            raise StageError(f"the MCP client failed: {_innermost(error)}") from error
    return took_ms


def _table(decisions: list[dict[str, Any]], took_ms: list[float]) -> Table:
    """Lay out what was decided: the call, the effect, by which policy and why, and how long it took."""
    table = Table(
        Column(justify="right", no_wrap=True),
        Column("the agent's call", ratio=3),
        Column("effect", width=8),
        Column("policy, and what the agent is told", ratio=6),
        Column("judged", justify="right", no_wrap=True),
        Column("in all", justify="right", no_wrap=True),
        title="Decisions, as the ledger has them",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        expand=True,
        padding=(0, 1, 0, 0),
    )
    for number, (call, record, took) in enumerate(zip(STORY, decisions, took_ms, strict=False), start=1):
        effect, first = record["effect"], record["reasons"][0]
        told = "" if effect == "allow" else f" {first['text']}"
        table.add_row(
            str(number),
            Text(" ".join([call.tool, *(_short(value) for value in call.arguments.values())])),
            Text(effect.replace("_", " "), style=EFFECT_STYLES[effect]),
            Text.assemble((first["policy"] or first["kind"], "bold"), told),
            f"{record['latency_us'] / 1000:.1f} ms",
            f"{took:.0f} ms",
        )
    return table


def _records(log: Path) -> list[dict[str, Any]]:
    """Read the log's entries in their order (C2SP tlog-tiles: each has its size before it, two bytes)."""
    found = []
    for path in sorted(path for path in (log / "tile" / "entries").rglob("*") if path.is_file()):
        data = path.read_bytes()
        while data:
            size = 2 + int.from_bytes(data[:2], "big")
            found.append(decode(data[2:size]))
            data = data[size:]
    return found


def _because(record: dict[str, Any]) -> set[str]:
    return {word for reason in record["reasons"] for word in (reason["policy"], reason["kind"])}


def _short(value: object) -> str:
    """An argument as the table shows it: these are the story's own, so they may be seen."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _say_what_was_proved(report: Report, records: list[dict[str, Any]]) -> None:
    """Say what the log is good for, and where to look next. Raises `StageError` for a log that does not verify."""
    if report.fault is not None:
        raise StageError(f"the ledger does not verify: {report.fault.where}: {report.fault.text}")
    kinds = Counter(record["kind"] for record in records)
    what = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    console.print(
        f"[green]The ledger verifies[/], offline and to the last byte: {report.size} records by {len(report.writers)} "
        f"writers ({what}), under the Merkle root {report.root.hex()[:16]}… that its checkpoint signs.\n"
    )
    console.print(NEXT)
