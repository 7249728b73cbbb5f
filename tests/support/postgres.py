"""A real PostgreSQL server for tests: as an unprivileged user, on a Unix socket and on loopback, syncing as by default.

`postgres` is one server a session, `database` an empty database of a test's own: the file with its address.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from processes import children, freeze

if TYPE_CHECKING:
    import psycopg

    from exequatur.transport import TlsFiles

PASSWORD = "c4n4ry-p4ss"
"""What nobody may ever be told."""

ROOM_BYTES: Final = 512 << 20
"""What a server may need."""

_CONFIG = """
listen_addresses = '127.0.0.1'
max_connections = 60
shared_buffers = 16MB
max_wal_size = 64MB
recovery_init_sync_method = syncfs
autovacuum = off
log_min_messages = fatal
"""
_HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def program(name: str) -> str:
    """Find a program of PostgreSQL's, which some systems keep off PATH."""
    found = shutil.which(name) or next(
        iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), ""
    )
    assert found, f"`{name}` is needed: install the PostgreSQL server from your packages"
    return str(found)


def _user() -> dict[str, Any]:
    """Say as whom it runs: it refuses to be root."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@dataclass
class Postgres:
    """A server in a folder with a short name."""

    folder: Path
    seed: Path
    """Where one `initdb` serves all servers of a run."""
    port: int = 0
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        _make_seed(self.seed)
        from stack import free_port  # late, as all that takes long to import: these fixtures are every test's

        self.port = self.port or free_port()
        shutil.copytree(self.seed, self.data)
        _own(self.data)
        (self.data / "postgresql.conf").write_text(_CONFIG)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        from stack import until

        self.spawn()
        until(self.answers, 20, "a server that answers", every_s=0.01)

    def spawn(self) -> None:
        """Start it."""
        (self.data / "pg_hba.conf").write_text(_HBA)
        command = [program("postgres"), "-D", str(self.data), "-k", str(self.folder), f"-p{self.port}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **_user()
            )

    def answers(self) -> bool:
        """Say whether it takes connections."""
        import psycopg

        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT breaks connections off, SIGQUIT is a crash that is told, SIGKILL one that is not."""
        if self._process is None:
            return
        if how is signal.SIGKILL:
            self._signal_all(how)
        else:
            self._process.send_signal(how)
        self._process.wait(timeout=20)
        self._process = None

    def freeze(self) -> None:
        """Have it stand still: the kernel takes what is sent to it, and nothing answers."""
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                freeze(pid)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal_all(signal.SIGCONT)

    @contextlib.contextmanager
    def set(self, **settings: str) -> Iterator[None]:
        """Run with other settings, of those that need no new start, while the context lasts."""
        with self.admin() as admin:
            admin.execute("SET synchronous_commit = local")
            for name, value in settings.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            self._reload(admin)
            try:
                yield
            finally:
                admin.execute("ALTER SYSTEM RESET ALL")
                self._reload(admin)

    @contextlib.contextmanager
    def proved_by(self, files: TlsFiles) -> Iterator[None]:
        """Speak TLS, also, with this certificate, while the context lasts."""
        for path, name in ((files.certificate, "server.crt"), (files.key, "server.key")):
            (self.data / name).unlink(missing_ok=True)
            shutil.copy(path, self.data / name)
            (self.data / name).chmod(0o600)
            _own(self.data / name)
        with self.set(ssl="on"):
            yield

    @staticmethod
    def _reload(admin: psycopg.Connection[Any]) -> None:
        """Have it read its settings, and wait until this connection's process has, too."""
        before = admin.execute("SELECT pg_conf_load_time()").fetchone()
        admin.execute("SELECT pg_reload_conf()")
        while admin.execute("SELECT pg_conf_load_time(), pg_sleep(0.005)").fetchone()[:1] == before:  # type: ignore[index]
            pass

    def admin(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """Connect as its owner."""
        import psycopg

        return psycopg.connect(
            host=str(self.folder), port=self.port, user="owner", dbname=name, autocommit=True, connect_timeout=2
        )

    def url(self, name: str, *, host: str = "127.0.0.1", query: str = "", user: str = "exequatur") -> str:
        """Give a database's address."""
        return f"postgresql://{user}:{PASSWORD}@{host}:{self.port}/{name}{query}"

    def make(self, how: str = "") -> str:
        """Make an empty database, whose owner is a user with a password; gives its name."""
        import psycopg

        name = f"d{next(self._numbers)}"
        with self.admin() as admin:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                admin.execute(f"CREATE ROLE exequatur LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"CREATE DATABASE {name} OWNER exequatur {how}")
        return name

    def _signal_all(self, what: signal.Signals) -> None:
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def _all(self) -> list[int]:
        """Give the ids of its processes, each of which leads a session of its own."""
        assert self._process is not None
        return [self._process.pid, *children(self._process.pid)]


def _own(folder: Path) -> None:
    """Give a folder to the user that the server runs as."""
    if user := _user():
        subprocess.run(["chown", "-R", f"{user['user']}:{user['group']}", str(folder)], check=True)


def _make_seed(seed: Path) -> None:
    """Make the files of a new server, once for all who ask."""
    with (seed.parent / "seed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if seed.exists():
            return
        with tempfile.TemporaryDirectory(prefix="ex-") as name:
            made = Path(name) / "seed"
            made.mkdir()
            Path(name).chmod(0o711)
            _own(made)
            command = [program("initdb"), "-D", str(made), "-U", "owner", "-A", "trust", "-E", "UTF8", "--no-locale"]
            subprocess.run(
                [*command, "--no-sync", "--wal-segsize=1"], check=True, capture_output=True, cwd=name, **_user()
            )
            shutil.copytree(made, seed)


@contextlib.contextmanager
def running(seed: Path) -> Iterator[Postgres]:
    """A server while the context lasts."""
    memory = Path("/dev/shm")  # what is synced there lasts as long as any test looks, and delays none
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="ex-", dir=memory if roomy else None) as name:
        folder = Path(name)
        _own(folder)
        server = Postgres(folder, seed)
        try:
            yield server
        finally:
            with contextlib.suppress(Exception):
                server.thaw()
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a new server."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "postgres-seed"


@pytest.fixture(scope="session")
def postgres(postgres_seed: Path) -> Iterator[Postgres]:
    """One server for a session's tests; who breaks it, starts it again."""
    with running(postgres_seed) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres, tmp_path: Path) -> Path:
    """The file with the address of an empty database."""
    file = tmp_path / "database"
    file.write_text(postgres.url(postgres.make()) + "\n")
    return file
