"""Standings: a policy speaks only while it is in force, heard of and trusted, and each change is put on record."""

from __future__ import annotations

import datetime as dt

import pytest

from judging import HOUR, snapshot
from pdp.policies import Policies, Standing, Trial, changes
from policies import NOW

ONE, TWO = snapshot(kids=("alice", "bob")), snapshot(digest=b"\2" * 32, sequence=8)


@pytest.mark.parametrize(
    ("standing", "match"),
    [
        (Standing(None), "no bundle has been served for this tenant yet"),
        (Standing(snapshot(expires_at=NOW)), "has expired: a new bundle"),
        (Standing(snapshot(not_before=NOW + HOUR)), "does not count yet"),
        (Standing(ONE, trusted_until=NOW), "the source has not been heard since before 2026-01-05T10:00:00Z: "),
        (Standing(ONE, withdrawn="the key `bob` was revoked"), "no longer trusted: the key `bob` was revoked"),
        (Standing(None, withdrawn="why"), "no longer trusted: why"),
    ],
)
def test_a_policy_that_may_not_speak_says_why(standing, match):
    assert match in standing.silenced(NOW)


def test_a_policy_speaks_until_the_last_moment():
    moment = dt.timedelta(microseconds=1)
    assert Standing(ONE, trusted_until=NOW + moment).silenced(NOW) == ""
    assert Standing(snapshot(expires_at=NOW + moment, not_before=NOW)).silenced(NOW) == ""


def test_who_is_not_known_has_no_policy():
    policies = Policies({"acme": Standing(ONE)})
    for stranger in ("", "default", "ACME", "acme "):
        assert policies.of(stranger).snapshot is None
    assert Policies().of("acme").silenced(NOW) != ""


def test_nobody_changes_policies_behind_our_back():
    given = {"acme": Standing(ONE)}
    policies = Policies(given)
    given["acme"] = Standing(TWO)
    assert policies.of("acme").snapshot is ONE
    assert policies.having("beta", Standing(TWO)).of("acme").snapshot is ONE
    assert policies.of("beta").snapshot is None
    with pytest.raises(TypeError):
        policies.standings["acme"] = Standing(TWO)


def test_what_was_distrusted_as_a_whole_stays_so_whatever_is_put():
    lost = Policies({"acme": Standing(ONE)}).distrusted("the state folder is older")
    later = lost.having("acme", Standing(TWO)).having("beta", Standing(ONE))
    for policies, tenant in ((lost, "acme"), (later, "acme"), (later, "beta")):
        assert policies.of(tenant).silenced(NOW) == (
            "the policy in force is no longer trusted: the state folder is older"
        )


def events(before, after):
    return [(each["event"], each["tenant"], each["sequence"], each["reason"]) for each in changes(before, after)]


def test_each_change_of_policy_is_an_event_and_what_changes_nothing_is_none():
    first = Policies({"acme": Standing(ONE), "beta": Standing(None)})
    assert events(Policies(), first) == [("in_force", "acme", 7, "")]
    (record,) = changes(Policies(), first)
    assert (record["kind"], record["bundle"], record["kids"]) == ("bundle", "01" * 32, ["alice", "bob"])
    heard = first.having("acme", Standing(ONE, trusted_until=NOW))
    assert events(first, heard) == []
    second = heard.having("acme", Standing(TWO)).having("beta", Standing(ONE))
    assert events(heard, second) == [("in_force", "acme", 8, ""), ("in_force", "beta", 7, "")]


def test_withdrawing_and_trusting_again_are_events():
    trusted = Policies({"acme": Standing(ONE)})
    withdrawn = trusted.having("acme", Standing(ONE, withdrawn="revoked"))
    assert events(trusted, withdrawn) == [("withdrawn", "acme", 7, "revoked")]
    assert events(withdrawn, trusted) == [("in_force", "acme", 7, "")]
    assert events(withdrawn, trusted.having("acme", Standing(TWO, withdrawn="revoked"))) == []
    assert events(trusted, trusted.distrusted("older")) == [("withdrawn", "acme", 7, "older")]


def test_a_trial_begins_and_ends_on_record_unless_it_ends_in_force():
    plain = Policies({"acme": Standing(ONE)})
    shadow, canary = (plain.having("acme", Standing(ONE, trial=Trial(TWO, percent))) for percent in (0, 5))
    assert events(plain, shadow) == [("candidate", "acme", 8, "")]
    assert [each["percent"] for each in changes(shadow, canary)] == [5]
    assert events(canary, plain) == [("halted", "acme", 8, "it is not tried any longer")]
    assert events(canary, plain.having("acme", Standing(ONE, trial_ended="it failed"))) == [
        ("halted", "acme", 8, "it failed")
    ]
    assert events(canary, plain.having("acme", Standing(TWO))) == [("in_force", "acme", 8, "")]
