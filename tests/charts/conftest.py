"""A control plane for the tests of a file that need one."""

from __future__ import annotations

import pytest

import control_plane


@pytest.fixture(scope="module")
def plane():
    with control_plane.running() as plane:
        yield plane
