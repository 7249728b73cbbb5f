"""Unset means nobody, plain text is for loopback alone, and every fault is said at once."""

from __future__ import annotations

import pytest

from exequatur.settings import SettingsError, describe
from ledger.settings import LedgerSettings

TLS = ["--tls-certificate", "c.pem", "--tls-key", "k.pem", "--tls-roots", "r.pem"]
BASE = ["--folder", "/var/lib/log", "--origin", "example.org/audit", "--key", "log.key"]


def load(*argv: str, environ: dict[str, str] | None = None) -> LedgerSettings:
    return LedgerSettings.load(argv, environ or {})


def test_nobody_may_write_or_look_unless_named():
    settings = load(*BASE, *TLS)
    assert (settings.writers, settings.auditors) == ((), ())
    named = load(*BASE, *TLS, environ={"EXEQUATUR_LEDGER_WRITERS": "spiffe://a/b,spiffe://a/c"})
    assert named.writers == ("spiffe://a/b", "spiffe://a/c")


def test_what_is_in_force_can_be_read_again(tmp_path):
    settings = load(*BASE, *TLS, "--writers", "spiffe://a/b")
    file = tmp_path / "ledger.toml"
    file.write_text(describe(settings))
    assert load("--config", str(file)) == settings


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (BASE, "give tls_certificate, tls_key and tls_roots"),
        ([*BASE, *TLS[:4]], "give tls_certificate, tls_key and tls_roots"),
        ([*BASE, *TLS, "--unsafe-plaintext"], "not both"),
        ([*BASE, "--unsafe-plaintext", "--listen", "0.0.0.0:7071"], "loopback alone"),
        ([*BASE, *TLS, "--origin", "two words"], "origin"),
        ([*BASE, *TLS, "--drain-grace-s", "0"], "drain_grace_s"),
        (TLS, "folder"),
    ],
)
def test_what_is_wrong_stops_the_start(argv, fault):
    with pytest.raises(SettingsError) as error:
        load(*argv)
    assert fault in str(error.value)
