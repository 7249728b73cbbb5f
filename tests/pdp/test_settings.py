"""Unset means nobody, and what proves nothing has to be called unsafe."""

from __future__ import annotations

import pytest

from exequatur.settings import SettingsError
from pdp.settings import PdpSettings

BASE = ["--state", "s", "--bundle", "b"]
TLS = ["--tls-certificate", "c", "--tls-key", "k", "--tls-roots", "r"]


def load(*argv):
    return PdpSettings.load([*BASE, *argv], {})


def test_unset_means_nobody():
    settings = load("--keys", "k", *TLS)
    assert settings.openers == settings.auditors == settings.enforced == ()
    assert settings.tls is not None


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--keys", "k"], "give tls_certificate"),
        (["--keys", "k", *TLS[:4]], "give tls_certificate"),
        (["--keys", "k", *TLS, "--unsafe-plaintext"], "not both"),
        (["--keys", "k", "--unsafe-plaintext", "--listen", "0.0.0.0:7"], "loopback"),
        (["--keys", "k", "--unsafe-plaintext", "--ledger", "ledger:7"], "loopback"),
        ([*TLS], "give keys"),
        (["--keys", "k", "--unsafe-unsigned", *TLS], "not both"),
        (["--keys", "k", *TLS, "--reservation-ttl-s", "0"], "reservation_ttl_s"),
        (["--keys", "k", *TLS, "--workers", "65"], "workers"),
        (["--keys", "k", *TLS, "--opa-token", "t"], "opa_url"),
        (["--keys", "k", *TLS, "--opa-url", "http://opa.internal:8181"], "https"),
        (["--keys", "k", *TLS, "--opa-url", "https://opa.internal:8181"], "opa_roots"),
        (["--keys", "k", *TLS, "--opa-url", "http://localhost:8181", "--opa-roots", "r"], "only then"),
        (["--keys", "k", *TLS, "--opa-url", "http://localhost"], "HOST:PORT"),
        (["--keys", "k", *TLS, "--opa-url", "http://localhost:99999"], "HOST:PORT"),
        (["--keys", "k", *TLS, "--opa-url", "http://localhost:1/v1"], "HOST:PORT"),
        (["--keys", "k", *TLS, "--opa-url", "ftp://localhost:1"], "HOST:PORT"),
        (["--keys", "k", *TLS, "--opa-url", "http://me:secret@localhost:1"], "a token has a file"),
        (["--keys", "k", *TLS, "--opa-timeout-ms", "0"], "opa_timeout_ms"),
    ],
)
def test_what_proves_nothing_does_not_start(argv, text):
    with pytest.raises(SettingsError, match=text):
        load(*argv)


def test_an_opa_server_is_ours_or_the_teams():
    ours = load("--keys", "k", *TLS).opa_at("state/1.sock")
    assert (str(ours.socket), ours.token_file, ours.roots) == ("state/1.sock", None, None)
    team = load("--keys", "k", *TLS, "--opa-url", "https://opa:1", "--opa-token", "t", "--opa-roots", "r").opa_at("x")
    assert (team.socket, team.url, str(team.token_file), str(team.roots)) == (None, "https://opa:1", "t", "r")


def test_settings_reach_a_worker_as_they_are():
    settings = load("--keys", "k", *TLS, "--openers", "a", "--openers", "b")
    assert PdpSettings(**settings.model_dump(mode="json")) == settings
