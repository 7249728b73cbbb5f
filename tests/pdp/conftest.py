"""The databases on which the conveyor is tried: SQLite each time, PostgreSQL with the conformance tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.conformance)])
def either(request, monkeypatch):
    """Have a desk on one of both databases."""
    if request.param == "postgresql":
        monkeypatch.setattr("conveying.shared", request.getfixturevalue("database"))
