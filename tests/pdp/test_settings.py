"""Unset means nobody, and what proves nothing has to be called unsafe."""

from __future__ import annotations

import json

import pytest

from exequatur.settings import SettingsError
from pdp.settings import PdpSettings
from pdp.told import Told

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
        (["--keys", "k", *TLS, "--wait-for-ledger"], "needs a ledger"),
        (["--keys", "k", *TLS, "--enforced", "spiffe://test/a@grpc"], "act by themselves"),
        (["--keys", "k", *TLS, "--bundle", "ftp://host/b"], "no way to a bundle"),
        (["--keys", "k", *TLS, "--bundle", "https://host"], "https://HOST"),
        (["--keys", "k", *TLS, "--bundle", "https://me:secret@host/b"], "a token has a file"),
        (["--keys", "k", *TLS, "--bundle", "http://host/b"], "must begin with https://"),
        (["--keys", "k", *TLS, "--bundle", "http://127.0.0.1:1/b"], "unless unsafe_plaintext"),
        (["--keys", "k", *TLS, "--candidate", "http://127.0.0.1:1/b"], "unless unsafe_plaintext"),
        (["--keys", "k", *TLS, "--bundle-token", "t"], "that a server has"),
        (["--keys", "k", *TLS, "--bundle", "https://h/b", "--bundle-key", "k"], "or neither"),
        (["--keys", "k", *TLS, "--canary-percent", "5"], "needs a candidate"),
        (["--keys", "k", *TLS, "--canary-percent", "101", "--candidate", "c"], "canary_percent"),
        (["--keys", "k", *TLS, "--tenants", "tenant=a,bundle=b,keys=k"], "`bundle` is for one tenant"),
    ],
)
def test_what_proves_nothing_does_not_start(argv, text):
    with pytest.raises(SettingsError, match=text):
        load(*argv)


def test_an_opa_server_is_ours_or_the_teams():
    ours = load("--keys", "k", *TLS).told.opa_at("state/1.sock")
    assert (str(ours.socket), ours.token_file, ours.roots) == ("state/1.sock", None, None)
    team = load("--keys", "k", *TLS, "--opa-url", "https://opa:1", "--opa-token", "t", "--opa-roots", "r").told.opa_at(
        "x"
    )
    assert (team.socket, team.url, str(team.token_file), str(team.roots)) == (None, "https://opa:1", "t", "r")


def test_settings_reach_a_worker_as_they_are():
    opa = ("--opa-url", "https://opa:1", "--opa-token", "t", "--opa-roots", "r")
    paths = ("--database", "d", "--ledger", "host:1", "--log-key", "l", "--wait-for-ledger")
    for more in ((), ("--openers", "a", "--openers", "b"), opa, paths):
        told = load("--keys", "k", *TLS, *more).told
        assert Told.read(json.loads(json.dumps(told.written()))) == told


def several(*tenants, more=()):
    spelt = [part for tenant in tenants for part in ("--tenants", tenant)]
    return PdpSettings.load(["--state", "s", *TLS, *more, *spelt], {})


def test_one_tenant_or_several_each_with_a_feed():
    (one,) = load("--keys", "k", *TLS, "--tenant", "acme", "--bundle-poll-s", "2", "--floor", "3").feeds
    assert (one.tenant, one.bundle, str(one.keys), one.poll_s, one.floor) == ("acme", "b", "k", 2, 3)
    acme, zoo = several("tenant=acme,bundle=oci://host/acme:1,keys=k,token=t", "tenant=zoo,bundle=z,keys=k").feeds
    assert (acme.tenant, str(acme.token), zoo.tenant, zoo.token) == ("acme", "t", "zoo", None)
    assert zoo.trial is None
    (tried,) = several("tenant=acme,bundle=b,keys=k,candidate=c,canary_percent=5").feeds
    assert tried.trial is not None
    assert (tried.trial.bundle, tried.trial.candidate) == ("c", None)


@pytest.mark.parametrize(
    ("tenants", "text"),
    [
        (["tenant=a,bundle=b,keys=k", "tenant=a,bundle=c,keys=k"], "the tenant `a` is there twice"),
        (["tenant=a,bundle=b,keys=k", "tenant=c,bundle=c"], "give keys"),
        (["tenant=a,keys=k"], "bundle"),
        (["acme"], "a tenant is spelt tenant=NAME"),
        (["tenant=a,bundle=b,keys=k,colour=red"], "colour"),
        (["tenant=a,bundle=b,keys=k,unsafe_plaintext=true"], "for all"),
        (["tenant=a,bundle=ftp://x/y,keys=k"], "no way to a bundle"),
    ],
)
def test_tenants_that_prove_nothing_do_not_start(tenants, text):
    with pytest.raises(SettingsError, match=text):
        several(*tenants)
    with pytest.raises(SettingsError, match="say where bundles come from"):
        several()
