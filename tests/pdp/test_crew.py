"""Workers are kept alive, whatever ends a life of theirs, or keeps one from beginning."""

from __future__ import annotations

import asyncio
import sys

import pytest

from crews import until
from pdp.crew import Worker, ending

SAYS = "import sys; print('{}', flush=True); sys.stdin.read()"


class Listener:
    """Stands for the crew; hearing fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures, self.begun, self.heard, self.ended = failures, 0, 0, list[int]()

    def joined(self, _: Worker) -> None:
        self.begun += 1

    def gone(self, _: Worker, pid: int) -> None:
        self.ended.append(pid)

    def hear(self, _: Worker, line: bytes) -> None:
        assert line == b"{}\n"
        if self.failures:
            self.failures -= 1
            raise OSError("no locks available")
        self.heard += 1


@pytest.mark.parametrize("what", ["no process", "not heard"])
async def test_a_worker_whose_life_fails_has_another(monkeypatch, what):
    """A machine may have no process to spare for a moment; a worker that is heard no more must not live on."""
    start, refused = asyncio.create_subprocess_exec, []

    async def begin(*_: object, **options: object):
        if what == "no process" and not refused:
            refused.append(what)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await start(sys.executable, "-c", SAYS, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", begin)
    crew = Listener(what == "not heard")
    worker = Worker(0, {}, {}, crew)
    running = asyncio.create_task(worker.run())
    await until(lambda: crew.heard)
    assert worker.is_alive
    assert (crew.begun, len(crew.ended)) == ((1, 0) if what == "no process" else (2, 1))
    await worker.stop(5)
    await running
    assert len(crew.ended) == crew.begun


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "1"),
        (-9, "-9 (SIGKILL)"),
        (-7, "-7 (SIGBUS: look whether the disk of the state folder is full)"),
        (-250, "-250"),
    ],
)
def test_a_signal_that_ended_it_has_a_name(code, said):
    assert ending(code) == said
