"""Attacks on the way of a bundle, by their names in The Update Framework, on a decision point that serves.

One decision point runs for the whole file. Two owners must sign; its source is a web server that the attacker has; what
else the attacker has, each test says. After each attack the next honest bundle comes into force.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from besieged import Besieged, besieged, small
from exequatur.client import Client
from exequatur.trust.archive import LIMITS, read_tar, unpack, write_archive
from exequatur.trust.bundle import BundleClaims, endorse, sign
from exequatur.trust.keys import SigningKey, generate
from exequatur.trust.tokens import SIGNATURES
from exequatur.values import Effect, ReasonKind
from mirrors import Mirror, mirror
from signing import public_pem
from stack import until

patiently = functools.partial(until, every_s=0.2)
"""Each look is a call; they shall not be what this costs."""

ALICE, BOB, MALLORY, TWIN = (
    SigningKey.from_pem(f"{kid}.pem", generate("ES256")[0]) for kid in ("alice", "bob", "mallory", "twin")
)
OWNERS = {ALICE: "alice", BOB: "bob", MALLORY: "mallory", TWIN: "mallory"}
EVIL = b'@id("evil")\npermit (principal, action, resource);\n'
STALE_S = 10
MOST = 2**53 - 1


def by(*keys: SigningKey, sequence: int, seconds: float = 86_400, **changed: bytes) -> bytes:
    """Sign as the first of `keys`, endorsed by the others."""
    claims = BundleClaims(sequence, datetime.now(UTC) + timedelta(seconds=seconds))
    files = {**small(), **{name.replace("_", "."): content for name, content in changed.items()}}
    return sign(files, keys[0], claims, [endorse(files, key, claims) for key in keys[1:]])


def key_policy(*revoked: str) -> bytes:
    owners = {key.kid: {"owner": f"{name}@example.org"} for key, name in OWNERS.items()}
    return json.dumps({"purpose": "bundle", "threshold": 2, "keys": owners, "revoked": [*revoked]}).encode()


@dataclass
class Siege:
    """The decision point, its client, the attacker's server, and the newest bundle that is honest."""

    target: Besieged
    client: Client
    mirror: Mirror
    newest: bytes
    sequence: int = 1
    pids: list[int] = field(default_factory=list)

    def ask(self):
        return self.client.authorize("bank/look", {"account": "7"}, agent="teller")

    def denied(self, words: str, timeout_s: float = 60) -> None:
        """Wait until calls are denied as stale, with these words."""

        def is_so() -> bool:
            answer = self.ask()
            reason = answer.reasons[0]
            return (answer.effect, reason.kind) == (Effect.DENY, ReasonKind.STALE) and words in reason.text

        patiently(is_so, timeout_s, f"the denial: {words}")

    def publish(self, within_s: float = 60, **options) -> None:
        """Publish the next honest bundle, and wait until calls are judged by it."""
        self.sequence += 1
        self.newest = self.mirror.data = by(ALICE, BOB, sequence=self.sequence, **options)
        patiently(lambda: self.ask().bundle_sequence == self.sequence, within_s, f"service under {self.sequence}")

    def attack(self, data: bytes) -> None:
        """Serve `data` instead of what is honest."""
        self.mirror.data = data

    def refused(self, *words: str) -> None:
        """Wait until the status says why; the honest bundle must stay in force meanwhile."""

        def is_so() -> bool:
            answer = self.ask()
            assert (answer.effect, answer.bundle_sequence) == (Effect.ALLOW, self.sequence), answer
            tenant = self.target.tenant
            said = " ".join([*tenant["faults"], str(tenant["refused"])])
            return all(word in said for word in words)

        patiently(is_so, 60, f"the refusal: {words}")

    def alarmed(self, words: str) -> None:
        patiently(lambda: words in " ".join(self.target.status["alarms"]), 60, f"the alarm: {words}")


@pytest.fixture(scope="module")
def running() -> Iterator[Siege]:
    files = {f"{key.kid}.pem": public_pem(key) for key in OWNERS}
    with mirror() as server:
        server.data = by(ALICE, BOB, sequence=1)
        options = ["--bundle-poll-s=1", f"--max-staleness-s={STALE_S}"]
        keys = {**files, "keys.json": key_policy()}
        with besieged(*options, keys=keys, source=server.url, workers=1) as target, target.client() as client:
            yield Siege(target, client, server, server.data, pids=target.pids)


@pytest.fixture
def siege(running) -> Iterator[Siege]:
    """Begin each attack with the honest bundle in force, and see that it was all in the same processes."""
    running.attack(running.newest)
    patiently(lambda: running.ask().bundle_sequence == running.sequence, 60, "honest service")
    yield running
    assert running.target.pids == running.pids


def test_rollback_is_refused(siege):
    """The attacker has a bundle that was honest once."""
    old = siege.newest
    siege.publish()
    siege.attack(old)
    siege.refused(f"sequence {siege.sequence - 1} after {siege.sequence}")


def test_equivocation_is_refused(siege):
    """The attacker has everybody's keys, and signs another bundle of the same number."""
    siege.attack(by(BOB, ALICE, sequence=siege.sequence, bank_cedar=EVIL))
    siege.refused(f"sequence {siege.sequence} was served with other content")
    siege.alarmed("somebody signed two bundles")


def test_keys_compromised_below_the_threshold_sign_nothing(siege):
    """The attacker has both keys of one owner, who is trusted: alone, and endorsed by his other key."""
    siege.attack(by(MALLORY, sequence=siege.sequence + 1, bank_cedar=EVIL))
    siege.refused("1 of the 2 owners needed have signed: mallory")
    siege.attack(by(MALLORY, TWIN, sequence=siege.sequence + 2, bank_cedar=EVIL))
    siege.refused("1 of the 2 owners needed have signed: mallory")


def test_fast_forward_moves_no_floor(siege):
    """The attacker has one key, and wants no honest bundle to be new enough ever again."""
    siege.attack(by(MALLORY, sequence=MOST, bank_cedar=EVIL))
    siege.refused("1 of the 2 owners needed have signed: mallory")
    assert siege.target.tenant["floor"] == siege.sequence
    siege.publish()
    assert siege.target.tenant["floor"] in (siege.sequence - 1, siege.sequence)


def test_mix_and_match_is_refused(siege):
    """The attacker has two honest bundles, and puts the signature of one on the files of the other."""
    one = read_tar(unpack(siege.newest))
    other = read_tar(unpack(by(ALICE, BOB, sequence=siege.sequence + 1, bank_cedar=EVIL)))
    siege.attack(write_archive({**one, SIGNATURES: other[SIGNATURES]}))
    siege.refused("`bank.cedar` is not what was signed")


def test_endless_data_is_cut_off(siege):
    """The attacker sends an answer that never ends, from an archive that begins well."""
    siege.attack(siege.newest)
    siege.mirror.endless = True
    try:
        siege.refused(str(LIMITS.archive_bytes))
        assert LIMITS.archive_bytes < siege.mirror.most < 2 * LIMITS.archive_bytes  # the kernel holds some on the way
    finally:
        siege.mirror.endless = False
    assert siege.target.most_memory < 400 * 2**20


def test_a_source_that_is_held_back_denies_in_time_and_serves_again(siege):
    """The attacker keeps us from hearing our source."""
    siege.mirror.down = True
    begun = time.monotonic()
    try:
        siege.denied("the source has not been heard since")
        assert time.monotonic() - begun < STALE_S + 30  # of which a machine with other work may need some
        assert siege.target.tenant["state"] in ("serving", "stale")
    finally:
        siege.mirror.down = False
    patiently(lambda: siege.ask().effect is Effect.ALLOW, 60, "service again")


def test_freeze_ends_when_the_bundle_expires(siege):
    """The attacker goes on serving what was honest, and hides what is newer."""
    for seconds in (5, 15, 60):  # a machine with other work may not have it in force before it is over
        with contextlib.suppress(TimeoutError):
            siege.publish(within_s=seconds, seconds=seconds)
            break
    siege.denied("the policy in force has expired", 2 * 60)
    siege.publish()
    assert siege.ask().effect is Effect.ALLOW


def test_a_revoked_key_withdraws_what_is_in_force_and_an_honest_key_brings_it_back(siege):
    """The attacker had a key when the bundle in force was signed; it is revoked by a change of the key folder."""
    policy = siege.target.keys / "keys.json"
    policy.write_bytes(key_policy("bob"))
    try:
        siege.denied("the policy in force is no longer trusted")
        assert "bob" in siege.ask().reasons[0].text
    finally:
        policy.write_bytes(key_policy())
    patiently(lambda: siege.ask().effect is Effect.ALLOW, 60, "trust again")


def test_a_kept_copy_that_was_edited_is_refused_after_a_restart(running):
    """The attacker can write into the state folder, and keeps the source from being heard."""
    process, state = running.target.process, running.target.state
    running.attack(running.newest)
    patiently(lambda: running.ask().bundle_sequence == running.sequence, 60, "honest service")
    running.mirror.down = True
    assert process.stop() == 0
    kept = state / "serving" / f"{hashlib.sha256(unpack(running.newest)).hexdigest()}.tar.gz"
    assert kept.exists()
    kept.write_bytes(write_archive({**read_tar(unpack(running.newest)), "bank.cedar": EVIL}))
    process.spawn()
    running.alarmed(
        "the kept copy of what tenant `default` was served is another one: `bank.cedar` is not what was signed"
    )
    assert running.target.tenant["state"] == "none"
    running.mirror.down = False
    patiently(lambda: _answers(running.ask), 60, "service after the restart")
    assert running.ask().bundle_sequence == running.sequence
    running.pids = running.target.pids


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception:  # noqa: BLE001 - it is not there yet
        return False
    return True
