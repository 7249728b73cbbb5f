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
    ],
)
def test_what_proves_nothing_does_not_start(argv, text):
    with pytest.raises(SettingsError, match=text):
        load(*argv)


def test_settings_reach_a_worker_as_they_are():
    settings = load("--keys", "k", *TLS, "--openers", "a", "--openers", "b")
    assert PdpSettings(**settings.model_dump(mode="json")) == settings
