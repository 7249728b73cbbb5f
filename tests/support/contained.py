"""One container as a process: namespaces of its own for mounts, processes and its host name, and the pod's network.

Its root is a file system in memory that holds what an image would: the machine's programs and libraries, Python and
this checkout, all read-only, and the pod's volumes where they are mounted. The process has the user, the groups and the
capabilities that the manifest says, and `no_new_privs`. Needs root, and util-linux alone.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import children

ROOT = Path(__file__).parents[2]
DEVICES = ("null", "zero", "full", "random", "urandom")
PASSWD = "root:x:0:0:root:/root:/bin/sh\n"


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine, and where the container sees it."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Who:
    """Whom a container runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = ()
    new_privileges: bool = False

    @property
    def command(self) -> list[str]:
        """Become that user; what follows is what it runs."""
        groups = ["--groups", ",".join(map(str, self.groups))] if self.groups else ["--clear-groups"]
        bounds = ",".join(("-all", *(f"+{name.lower()}" for name in self.capabilities)))
        narrow = ["--no-new-privs"] if not self.new_privileges else []
        return [
            *("/usr/bin/setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), *groups),
            *("--inh-caps=-all", "--ambient-caps=-all", f"--bounding-set={bounds}", *narrow, "--"),
        ]


@dataclass(frozen=True)
class Plan:
    """What to run: the argument list, all of its environment, its user, its files, and the namespace of its pod."""

    argv: Sequence[str]
    env: Mapping[str, str]
    who: Who
    network: str
    hostname: str
    hosts: Path
    mounts: Sequence[Mount] = ()
    working_dir: str = "/"
    read_only: bool = False


@dataclass
class Container:
    """A running container."""

    plan: Plan
    folder: Path
    log: Path
    popen: subprocess.Popen[bytes] | None = None
    _init: int | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start its process; returns at once."""
        root = self.folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        script = self.folder / "start.sh"
        script.write_text(_script(root, self.plan))
        self._init = None
        self._made.write_text("")
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.plan.network}", "unshare", "--mount", "--pid", "--uts"),
                    *("--fork", "--kill-child=KILL", "--propagation=private", "/bin/sh", str(script)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )

    @property
    def _made(self) -> Path:
        return self.folder / "made"

    @property
    def init(self) -> int | None:
        """Its first process, as this machine numbers it; None when there is none."""
        if self.popen is None or self.popen.poll() is not None:
            return None
        if self._init is None:
            self._init = next(iter(children(self.popen.pid)), None)
        return self._init

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has ended; negative for a signal, as `subprocess` has it."""
        code = None if self.popen is None else self.popen.poll()
        return None if code is None else 128 - code if code > 128 else code

    def signal(self, number: int) -> None:
        """Send its first process a signal."""
        if (init := self.init) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; says whether it came."""
        if self.popen is None:
            return True
        try:
            self.popen.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it and all that it has started."""
        end = time.monotonic() + 5
        while self.popen is not None and self.popen.poll() is None and time.monotonic() < end:
            self.signal(signal.SIGKILL)
            if self.init is None:
                self.popen.kill()
            self.wait(0.1)

    def inside(self, *argv: str, env: Mapping[str, str] | None = None, who: Who | None = None) -> list[str]:
        """Give the command that runs `argv` beside it: its namespaces, its user, its environment."""
        while self.popen is not None and self.popen.poll() is None and not self._made.read_text():
            time.sleep(0.005)  # until its root is its own: before, it would be this machine's
        init = self.init
        if init is None:
            raise RuntimeError(f"it has ended: {self.tail()}")
        return [
            *("nsenter", f"--target={init}", "--mount", "--pid", "--net", "--uts", "--"),
            *(who or self.plan.who).command,
            *_environment({**self.plan.env, **(env or {})}),
            *argv,
        ]

    def run(self, *argv: str, timeout_s: float = 20, **options) -> subprocess.CompletedProcess[str]:
        """Run `argv` beside it, to its end."""
        return subprocess.run(
            self.inside(*argv, **options),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def tail(self) -> str:
        """Give the last that it wrote."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def _environment(env: Mapping[str, str]) -> list[str]:
    return ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in env.items())]


def _script(root: Path, plan: Plan) -> str:
    """Write what makes the container: mounts, a new root, another user, and the program in its place."""
    lines = ["set -eu", f"exec 9>{root.with_name('made')}", f"mount -t tmpfs -o mode=0755 root {root}", f"cd {root}"]
    lines += ["mkdir -m 0755 -p etc proc dev sys tmp run var root home old", "chmod 1777 tmp"]
    lines += [
        f"if [ -L /{path} ]; then cp -P /{path} {path}; else mkdir {path}; fi"
        for path in ("bin", "sbin", "lib", "lib64")
    ]
    system = [Path("/usr"), Path(sys.base_prefix), ROOT]
    system += [Path("/etc") / name for name in ("ssl", "alternatives", "ld.so.cache", "nsswitch.conf", "localtime")]
    mounts = [Mount(path, str(path), read_only=True) for path in system if path.exists()]
    mounts += [Mount(Path("/dev") / name, f"/dev/{name}") for name in DEVICES]
    mounts += [Mount(plan.hosts, "/etc/hosts", read_only=True)]
    # Folders before what is in them: a volume at /tmp would hide a checkout that is there.
    for mount in sorted([*mounts, *plan.mounts], key=lambda mount: mount.target):
        target = shlex.quote(f".{os.path.normpath(mount.target)}")
        folder = f"mkdir -p {target}" if mount.source.is_dir() else f"mkdir -p $(dirname {target}); : > {target}"
        read_only = ",ro" if mount.read_only else ""
        lines.append(f"{folder}; mount -o bind{read_only} {shlex.quote(str(mount.source))} {target}")
    lines += [
        "mount -t proc proc proc",
        "mkdir -m 1777 dev/shm; mount -t tmpfs -o mode=1777,size=64m shm dev/shm",
        "ln -s /proc/self/fd dev/fd",
        f"printf '%s' {shlex.quote(PASSWD)} > etc/passwd",
        f"hostname {shlex.quote(plan.hostname)}",
        "pivot_root . old; umount -l /old; rmdir /old",
        *(["mount -o remount,bind,ro /"] if plan.read_only else []),
        f"cd {shlex.quote(plan.working_dir)}; echo made >&9; exec 9>&-",
        "exec " + shlex.join([*plan.who.command, *_environment(plan.env), *plan.argv]),
    ]
    return "\n".join(lines) + "\n"
