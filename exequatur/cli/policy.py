"""`exequatur policy`: check, test, try, explain and format policy; read a server's tools into a registry.

Rules: the verbs' words stand here, their work in `policy_*.py` beside it, which are imported when they run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exequatur.cli.bundle import AsJson, work

app = typer.Typer(no_args_is_help=True)

Envelope = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE|-]", help='an action in JSON: {"agent", "tool", "arguments"}; - is stdin'),
]
Session = Annotated[
    Path | None, typer.Option("--session", metavar="FILE", help="the session, as the `session` of a case, in JSON")
]
Time = Annotated[str, typer.Option(metavar="TIME", help="the clock stands at this time, not at now")]
Enforced = Annotated[bool, typer.Option("--door-enforced", help="it comes through a door that cannot be gone around")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="a folder of sources")]
Sources = Annotated[Path, typer.Argument(metavar="FOLDER|BUNDLE", help="a folder of sources, or a bundle")]


@app.command()
def schema(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="the command that starts the server, after `--`")
    ] = None,
    *,
    server: Annotated[str, typer.Option(help="the server's name in the registry, as the sidecar is told")] = "",
    saved: Annotated[
        Path | None, typer.Option("--from", help="a saved answer to MCP's `tools/list`; `-` is standard input")
    ] = None,
    url: Annotated[str, typer.Option(help="a running server that speaks streamable HTTP")] = "",
    out: Annotated[Path, typer.Option("-o", "--out", help="the registry to write")] = Path("tools.json"),
    merge: Annotated[bool, typer.Option("--merge", help="keep what is in it already, as it was reviewed")] = False,
    accept: Annotated[list[str] | None, typer.Option(help="a tool whose new definition you have read")] = None,
    timeout: Annotated[float, typer.Option(help="how long the server may take, in seconds", min=0.1)] = 30,
    printed: Annotated[
        str, typer.Option("--print", metavar="NAME", help="print the JSON Schema of `tools`, `agents`, `cases`, ...")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write `tools.json` from an MCP server's tools: definitions pinned, and a first guess of what each one does."""
    verb = work("policy_schema")
    if printed:
        verb.show(printed)
        return
    verb.write(
        server,
        command or [],
        saved=saved,
        url=url,
        out=out,
        merge=merge,
        accepted=accept or [],
        timeout_s=timeout,
        as_json=as_json,
    )


@app.command("test")
def run_cases(
    path: Sources,
    *,
    named: Annotated[str, typer.Option("-k", metavar="TEXT", help="only cases with this text in their name")] = "",
    file: Annotated[str, typer.Option("--file", metavar="TEXT", help="only files with this text in their name")] = "",
    policy: Annotated[
        str, typer.Option("--policy", metavar="ID", help="only cases that want or meet this policy")
    ] = "",
    coverage: Annotated[bool, typer.Option("--coverage", help="show what the cases try of the policies")] = False,
    threshold: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="less coverage than this is exit code 1", min=0, max=100)
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="write a report for CI, as JUnit's XML")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="again each time that a file changes; Ctrl-C ends it")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the cases: exit code 0 if all of them hold, 1 if not. Of a folder, `opa` is needed only for Rego."""
    verb = work("policy_test")
    asked = verb.Asked(
        path,
        named=named,
        file=file,
        policy=policy,
        coverage=coverage,
        threshold=threshold,
        report=junit,
        as_json=as_json,
    )
    verb.test(asked, watch=watch)


@app.command("eval")
def evaluate(
    path: Sources,
    envelope: Envelope = None,
    *,
    session: Session = None,
    time: Time = "",
    door_enforced: Enforced = False,
    document: Annotated[bool, typer.Option("--document", help="show what each engine saw")] = False,
    query: Annotated[str, typer.Option(metavar="REGO", help="answer this query, on the action's document if any")] = "",
    as_json: AsJson = False,
) -> None:
    """Judge one action, and show what each engine says: exit code 0 is yes, 1 is no."""
    verb = work("policy_explain")
    asked = verb.Asked(path, envelope, session=session, time=time, door_enforced=door_enforced, as_json=as_json)
    verb.evaluate(asked, documents=document, query=query)


@app.command()
def explain(
    path: Sources,
    envelope: Envelope = None,
    *,
    case: Annotated[str, typer.Option(metavar="NAME", help="explain this case of the bundle's own")] = "",
    session: Session = None,
    time: Time = "",
    door_enforced: Enforced = False,
    as_json: AsJson = False,
) -> None:
    """Say why: which policies applied, and on which condition each of the others ended."""
    verb = work("policy_explain")
    asked = verb.Asked(
        path, envelope, case=case, session=session, time=time, door_enforced=door_enforced, as_json=as_json
    )
    verb.why(asked)


@app.command()
def check(
    folder: Folder,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="a warning is exit code 1, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Find mistakes without running anything, each with file, line, why and a fix. Exit code 1 if there is an error."""
    work("policy_check").run(folder, strict=strict, as_json=as_json)


@app.command()
def fmt(
    folder: Folder,
    *,
    check: Annotated[bool, typer.Option("--check", help="write nothing, show what would change, exit code 1")] = False,
    as_json: AsJson = False,
) -> None:
    """Write Cedar, Rego and JSON in one form; comments and order stay."""
    work("policy_fmt").run(folder, check=check, as_json=as_json)
