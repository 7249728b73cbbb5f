"""A newcomer's path, by the commands alone: from a published MCP server to a decision of a served, signed bundle."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exequatur.cli.app import command
from pki import Authority
from policies import opa
from stack import Process, free_port

SIDECAR, OPENER = "spiffe://example.com/sidecar/coder", "spiffe://example.com/orchestrator"
WRITTEN = {
    "agents.json": json.dumps(
        {"agents": {"coder": {"owner": "you@example.com", "teams": ["engineering"], "enforcers": [SIDECAR]}}}
    ),
    "exequatur.json": json.dumps(
        {"document_version": 1, "name": "git", "engines": [{"engine": "cedar", "role": "decide"}]}
    ),
    "rules.cedar": """
@id("code.works")
@reason("engineering may use git")
permit (principal in Team::"engineering", action in [Action::"read", Action::"git/git_add"], resource);

@id("code.workspace")
@reason("work under /workspace: nothing else is this task's business")
forbid (principal, action, resource is Repository) unless { resource.repo_path like "/workspace/*" };
""",
    "cases/git.yaml": """
- name: "the status of a repository is read"
  agent: coder
  tool: git/git_status
  arguments: {repo_path: /workspace/app}
  want: {effect: allow, policies: [code.works]}
- name: "another folder is refused"
  agent: coder
  tool: git/git_status
  arguments: {repo_path: /etc}
  want: {effect: deny, kind: forbidden, policies: [code.workspace]}
- name: "nobody said that it may commit"
  agent: coder
  tool: git/git_commit
  arguments: {repo_path: /workspace/app, message: done}
  want: {effect: deny, kind: not_permitted}
""",
}


@pytest.fixture
def desk(monkeypatch):
    """A folder with a short name: certificates as a mesh would give them, and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="ex-"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EXEQUATUR_OPA", opa())
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(command(), words)
    assert result.exit_code == code, f"{' '.join(words)}\n{result.output}{result.stderr}"
    return result.stdout


def test_from_a_published_server_to_a_served_decision(desk):
    server = str(Path(sys.executable).parent / "mcp-server-git")
    Path("mine/cases").mkdir(parents=True)
    assert "12 new" in run("policy", "schema", "--server", "git", "-o", "mine/tools.json", "--", server)
    for name, text in WRITTEN.items():
        Path("mine", name).write_text(text)

    run("policy", "check", "mine")
    run("policy", "test", "mine")
    run("bundle", "build", "mine", "-o", "mine.tar.gz")
    run("keys", "generate", "--out", "signing", "--kid", "ops")
    sign = ["--key", "signing/ops.key", "--kid", "ops", "--sequence", "1", "--expires", "30d"]
    run("bundle", "sign", "mine.tar.gz", *sign, "-o", "mine-1.tar.gz")

    authority, port = Authority(desk / "pki"), free_port()

    def tls(identity: str) -> list[str]:
        files = authority.issue(identity.rpartition("/")[2], identity)
        return [f"--tls-certificate={files.certificate}", f"--tls-key={files.key}", f"--tls-roots={files.roots}"]

    target = f"127.0.0.1:{free_port()}"
    flags = ["--state=state", "--bundle=mine-1.tar.gz", "--keys=signing/public", f"--openers={OPENER}"]
    flags += [f"--listen={target}", f"--http=127.0.0.1:{port}", *tls("spiffe://example.com/pdp")]
    pdp = Process("pdp", ["pdp", "serve", *flags], desk / "pdp.log", port)
    try:
        pdp.start()
        who = ["--enforcer", SIDECAR, "--scope", "git/*", "--target", target]
        session = json.loads(run("session", "open", "coder", *who, *tls(OPENER), "--json"))["id"]
        for path, code, effect, policy in (
            ("/workspace/app", 0, "allow", "code.works"),
            ("/etc", 1, "deny", "code.workspace"),
        ):
            action = {"agent": "coder", "session": session, "tool": "git/git_status", "arguments": {"repo_path": path}}
            Path("action.json").write_text(json.dumps(action))
            answer = json.loads(run("authorize", "action.json", "--target", target, *tls(SIDECAR), "--json", code=code))
            assert (answer["effect"], answer["reasons"][0]["policy"], answer["sequence"]) == (effect, policy, 1)
        assert pdp.stop() == 0
    finally:
        pdp.kill()
