"""The development bundles are what their sources give, and what their keys say."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from exequatur.cli.data import data_dir
from exequatur.trust.bundle import verify
from exequatur.trust.keys import parse_key_set
from pdp.bundle.build import find_opa

BUNDLES = Path(__file__).parents[2] / "bundles"
NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rebuild", BUNDLES / "rebuild.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored() -> list[Path]:
    return sorted(BUNDLES.glob("*.tar.gz"))


def test_every_stored_bundle_has_its_sources_and_every_source_its_bundle(script):
    sources = {path.name for path in (BUNDLES.parent / "policies").iterdir() if (path / "exequatur.json").is_file()}
    assert {path.name.removesuffix(".tar.gz") for path in stored()} == set(script.SEQUENCES) == sources


@pytest.mark.parametrize("path", stored(), ids=lambda path: path.name)
def test_a_bundle_is_rebuilt_to_the_same_bytes(script, path):
    opa = find_opa(os.environ)
    assert opa is not None, "opa is needed: set EXEQUATUR_OPA, or run `make test`, which builds it"
    rebuilt = script.rebuild(path.name.removesuffix(".tar.gz"), opa)
    assert rebuilt == path.read_bytes(), "the policies have changed: raise the sequence and run `make bundles`"


@pytest.mark.parametrize("path", stored(), ids=lambda path: path.name)
def test_a_bundle_verifies_by_the_keys_beside_it_and_lasts(path):
    keys = parse_key_set({key.name: key.read_bytes() for key in (BUNDLES / "keys").iterdir()})
    bundle = verify(path.read_bytes(), keys, now=NOW)
    assert bundle.expires_at > NOW + dt.timedelta(days=365)
    assert "never-in-production" in bundle.kid


def test_the_command_finds_them():
    assert (data_dir() / "coding-agent.tar.gz").is_file()
    assert (data_dir() / "keys" / "dev-never-in-production.pem").is_file()
