"""A change gives a turn, nothing else does, and nothing is looked at in a busy loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pdp.policy.watching import EVERY_S, changes


class EnoughError(Exception):
    """The files were looked at again, and nothing had changed."""


def play(path: Path, *steps: Callable[[], object]) -> int:
    """Take steps, one between two looks; gives how many turns there were until nothing changed any more."""
    left = list(steps)

    def wait(seconds: float) -> None:
        assert seconds == EVERY_S
        if not left:
            raise EnoughError
        left.pop(0)()

    turns = 0
    with contextlib.suppress(EnoughError):
        for _ in changes(path, wait):
            turns += 1
    return turns


def test_each_change_gives_a_turn(tmp_path):
    file = tmp_path / "cases" / "a.yaml"
    file.parent.mkdir()
    file.write_text("a")
    steps = (
        lambda: file.write_text("ab"),
        lambda: (tmp_path / "b.cedar").write_text(""),
        (tmp_path / "b.cedar").unlink,
        lambda: os.utime(file, ns=(1, 1)),
    )
    assert play(tmp_path, *steps) == 5


def test_what_stays_as_it_is_gives_none(tmp_path):
    (tmp_path / "a").write_text("a")
    steps = (
        lambda: None,
        lambda: (tmp_path / ".a.swp").write_text("x"),
        (tmp_path / ".git").mkdir,
        lambda: (tmp_path / ".git/index").write_text("x"),
        lambda: None,
    )
    assert play(tmp_path, *steps) == 1


def test_a_bundle_is_watched_through_its_replacement(tmp_path):
    bundle = tmp_path / "b.tar.gz"
    bundle.write_bytes(b"1")
    assert play(bundle, bundle.unlink, lambda: bundle.write_bytes(b"22")) == 3


def test_what_changes_during_a_turn_gives_another(tmp_path):
    (tmp_path / "a").write_text("a")
    turns = changes(tmp_path, lambda _: pytest.fail("there was a change to see"))
    next(turns)
    (tmp_path / "a").write_text("aa")
    next(turns)
