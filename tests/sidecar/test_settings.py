"""Unset means nobody, plain text is for loopback, and every fault is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exequatur.settings import SettingsError, describe
from sidecar.settings import SidecarSettings

TLS = ["--tls-certificate", "c.pem", "--tls-key", "k.pem", "--tls-roots", "r.pem"]
BASE = ["--pdp", "pdp.example.org:7070", "--spool", "/var/spool/x", *TLS]
CODER = "agent=coder,socket=/run/coder.sock"
GIT = ("--agents", "agent=coder,socket=/run/git/git.sock,mounted=true,door=mcp_stdio,enforced=true")


def load(*argv: str, environ: dict[str, str] | None = None) -> SidecarSettings:
    return SidecarSettings.load(argv, environ or {})


def test_one_agent_is_spelled_out_in_a_flag():
    settings = load(*BASE, "--agents", CODER + ",instance=c1,uid=1000,door=mcp_stdio")
    (agent,) = settings.agents
    assert (agent.agent, agent.socket, agent.uid) == ("coder", Path("/run/coder.sock"), 1000)
    assert (agent.instance, agent.tenant, agent.door) == ("c1", "default", "mcp_stdio")


def test_agents_come_from_the_file_and_what_is_in_force_can_be_read_again(tmp_path):
    file = tmp_path / "sidecar.toml"
    file.write_text(
        'pdp = "p:1"\nspool = "s"\ntls_certificate = "c"\ntls_key = "k"\ntls_roots = "r"\n[[agents]]\nagent = "a"\nsocket = "/run/a"\n'
    )
    settings = load("--config", str(file))
    again = tmp_path / "again.toml"
    again.write_text("\n".join(line for line in describe(settings).splitlines() if "null" not in line))
    assert load("--config", str(again)) == settings


def test_an_agent_has_a_socket_for_each_of_its_doors():
    settings = load(*BASE, "--agents", "agent=coder,socket=/run/grpc/door.sock,mounted=true", *GIT)
    assert [(agent.door, agent.mounted, agent.enforced) for agent in settings.agents] == [
        ("grpc", True, False),
        ("mcp_stdio", True, True),
    ]


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ((*BASE,), "agents"),
        ((*BASE, "--agents", "coder"), "an agent is spelt"),
        ((*BASE, "--agents", CODER + ",root=yes"), "root"),
        ((*BASE, "--agents", CODER + ",door=open"), "door"),
        ((*BASE, "--agents", CODER, "--agents", "agent=other,socket=/run/coder.sock"), "the socket is the identity"),
        (("--pdp", "p:1", "--spool", "s", "--agents", CODER), "give tls_certificate"),
        ((*BASE, "--agents", CODER + ",mounted=true,uid=1000"), "the mount is the identity"),
        ((*BASE, "--agents", CODER + ",mounted=true", "--agents", "agent=other,socket=/run/o.sock"), "to itself"),
        ((*BASE, *GIT, "--agents", "agent=coder,socket=/run/fs/fs.sock,door=mcp_stdio"), "by its kind"),
        ((*BASE, "--agents", CODER, "--unsafe-plaintext"), "not both"),
        ((*BASE, "--agents", CODER, "--wait-for-ledger"), "needs a ledger"),
        (("--pdp", "p:1", "--spool", "s", "--agents", CODER, "--unsafe-plaintext"), "loopback alone"),
        (
            ("--pdp", "127.0.0.1:1", "--ledger", "l:1", "--spool", "s", "--agents", CODER, "--unsafe-plaintext"),
            "loopback alone",
        ),
        ((*BASE, "--agents", CODER, "--decision-timeout-ms", "0"), "decision_timeout_ms"),
    ],
)
def test_what_is_wrong_is_said(argv, fault):
    with pytest.raises(SettingsError, match=fault):
        load(*argv)


@pytest.mark.parametrize("whose", ["", ",mounted=true", ",uid=1000"])
@pytest.mark.parametrize("door", ["", ",door=grpc"])
def test_a_socket_at_which_the_agent_itself_speaks_is_never_believed_about_what_became_of_an_action(whose, door):
    with pytest.raises(SettingsError, match="`grpc` is never `enforced`: the agent itself speaks there") as refused:
        load(*BASE, "--agents", CODER + whose + door + ",enforced=true")
    assert len(refused.value.faults) == 1  # and not that there is no agent: one was given


def test_a_misspelt_variable_is_refused():
    with pytest.raises(SettingsError, match="EXEQUATUR_SIDECAR_AGENT`"):
        load(*BASE, "--agents", CODER, environ={"EXEQUATUR_SIDECAR_AGENT": CODER})
