"""The image's steps in a clean root, without an engine: what they make starts, decides, and writes nowhere else.

Needs root (mounts, another user) and the package index.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.metadata import version as version_of
from pathlib import Path

import pytest

import bank
import stack
from exequatur.client import Effect
from processes import children
from stack import OPENER, Stack, until

pytestmark = pytest.mark.image

ROOT = Path(__file__).parents[2]


def _python() -> Path:
    """Find what stands for the Python of the image, and where it is installed."""
    for program in (shutil.which("python3.13"), sys.executable):
        if program is not None:
            ask = [program, "-c", "import sys; print(sys.base_prefix)"]
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return Path(done.stdout.strip())
    raise RuntimeError("there is no Python")


PYTHON = _python()
USER = 64113
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"


class Clean:
    """A root of its own: the machine's programs, read-only, the sources, and what is built of them in `/opt`."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.opt, self._at = folder / "source", folder / "opt", folder / "root"
        for path in (self.sources, self.opt, self._at):
            path.mkdir()
        for line in (ROOT / "Dockerfile").read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                *names, target = line.split()[1:]
                for name in names:
                    self._copy(name, target)
        self.installed = self.opt / "exequatur"

    def _copy(self, name: str, target: str) -> None:
        source, to = ROOT / name, self.sources / target
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            to = to / source.name if target.endswith("/") else to
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to)

    def _mounts(self, writable: bool, folder: Path | None) -> Iterator[str]:
        at = shlex.quote(str(self._at))
        yield f"mount -t tmpfs tmpfs {at}; mkdir {at}/proc {at}/dev {at}/tmp"
        for name in ("bin", "sbin", "lib", "lib64"):
            yield f"if [ -L /{name} ]; then cp -d /{name} {at}/{name}; else mkdir {at}/{name}; mount -o bind,ro /{name} {at}/{name}; fi"
        outside = [("/usr", "/usr"), ("/etc", "/etc"), (str(self.sources), "/source")]
        if not PYTHON.is_relative_to("/usr"):
            outside.append((str(PYTHON), str(PYTHON)))
        for source, to in outside:
            yield f"mkdir -p {at}{to}; mount -o bind,ro {source} {at}{to}"
        yield f"mkdir {at}/opt; mount -o bind,{'rw' if writable else 'ro'} {self.opt} {at}/opt"
        yield f"mount -t tmpfs tmpfs {at}/tmp; chmod 1777 {at}/tmp; mount --rbind /dev {at}/dev; mount -t proc proc {at}/proc"
        if folder is not None:
            yield f"mkdir -p {at}{folder}; mount --bind {folder} {at}{folder}"
        yield f"mount -o remount,ro {at}; cd /"

    def command(self, *argv: str, building: bool = False, folder: Path | None = None, first: bool = False) -> list[str]:
        """Run `argv` in it: to build, as root; or as the image's user, perhaps as the first process of all."""
        mounts = "\n".join(("set -e", *self._mounts(building, folder)))
        nobody = [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        inside = ["chroot", str(self._at), *([] if building else nobody)]
        apart = ["unshare", "--mount", *(["--pid", "--fork", "--kill-child"] if first else [])]
        return [*apart, "sh", "-c", f"{mounts}\nexec {shlex.join([*inside, *argv])}"]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, env={"PATH": SYSTEM})


@pytest.fixture(scope="module")
def clean() -> Iterator[Clean]:
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        clean = Clean(Path(name))
        Path(name).chmod(0o755)
        pip = {
            key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower().endswith("_proxy")
        }
        env = {**pip, "PATH": f"{PYTHON}/bin:{SYSTEM}", "HOME": "/tmp"}
        build = clean.command("sh", "/source/images/build.sh", "/source", "/opt/exequatur", building=True)
        done = subprocess.run(build, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        yield clean


@pytest.mark.parametrize("program", ["pdp", "ledger", "sidecar", "injector"])
def test_each_daemon_says_its_version(clean, program):
    done = clean.run("/opt/exequatur/bin/exequatur", program, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"exequatur {version_of('exequatur')}\n", "")


def test_the_agents_program_needs_nothing_else(clean):
    empty = clean.opt.parent / "empty"
    empty.mkdir()
    shutil.copy(clean.installed / "bin" / "exequatur-mcp", empty)
    assert subprocess.run(["chroot", empty, "/exequatur-mcp"], capture_output=True, check=False).returncode == 2


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_bill_of_materials_holds_all_that_is_installed_and_nothing_of_the_day(clean):
    from cyclonedx.schema import SchemaVersion  # two seconds of imports, and each test worker reads this file
    from cyclonedx.validation.json import JsonStrictValidator

    data = (clean.installed / "share" / "exequatur" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    bill = json.loads(data)
    (packages,) = clean.installed.glob("lib/python3.*/site-packages")
    installed = {(plain(each.name), each.version) for each in distributions(path=[str(packages)])}
    listed = {(plain(each["name"]), each["version"]) for each in bill["components"]}
    itself = bill["metadata"]["component"]
    assert listed | {(itself["name"], version_of("exequatur"))} == installed
    locked = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / "image.txt").read_text(), re.MULTILINE)
    assert listed <= {(plain(name), version) for name, version in locked}
    assert len(listed) > 30
    assert "serialNumber" not in bill
    assert bill["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
    assert "/tmp" not in data


def test_there_is_no_pip_and_nothing_to_compile(clean):
    assert not list(clean.installed.glob("bin/pip*")) + list(clean.installed.glob("lib/python3.*/site-packages/pip"))
    (ours,) = clean.installed.glob("lib/python3.*/site-packages/pdp")
    compiled = {path.name.split(".")[0] for path in ours.glob("__pycache__/*.pyc")}
    assert compiled == {path.stem for path in ours.glob("*.py")}


def test_it_decides_as_the_first_process_and_as_nobody_on_a_root_that_cannot_be_written(clean, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="ex-") as name:
        folder = Path(name)
        monkeypatch.setattr(
            stack.Process,
            "command",
            property(
                lambda self: clean.command(
                    "/opt/exequatur/bin/exequatur", *self.argv, folder=folder, first=self.name == "pdp"
                )
            ),
        )
        daemons = Stack(folder, engine="rego")
        pdp, ledger = daemons.pdp, daemons.ledger
        subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
        try:
            ledger.start()
            pdp.start()
            with daemons.client(OPENER) as opener:
                opener.open_session("teller", bank.SIDECAR, lifetime=dt.timedelta(hours=1), scope=["*"], max_steps=9)
            with daemons.client() as client:
                answers = [
                    client.authorize(tool, {"account": "7"}, agent="teller").effect
                    for tool in ("bank/look", "bank/close")
                ]
            assert answers == [Effect.ALLOW, Effect.DENY]
            (first,) = pdp.children()
            (worker,) = children(first)
            assert "Uid:\t64113\t64113\t64113\t64113" in Path(f"/proc/{worker}/status").read_text()
            os.kill(worker, signal.SIGKILL)
            until(lambda: children(first) not in ([], [worker]), what="another worker, and none left unburied")
            until(lambda: '"worker 0 serves on' in pdp.log.read_text().rpartition("ended with")[2], what="serving")
            os.kill(first, signal.SIGTERM)
            assert pdp.popen is not None
            assert pdp.popen.wait(20) == 0
            assert ledger.stop() == 0
        finally:
            pdp.kill()
            ledger.kill()
