"""The action: canonical or refused, bounded, and named by a digest that nothing else has."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exequatur.action import DIGEST_VERSION, Action, ActionError, Claims, action_digest, parse_envelope
from exequatur.trust.canonical import JsonLimits, canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ARGUMENTS = st.dictionaries(
    TEXT,
    st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.lists(TEXT, max_size=2),
    max_size=4,
)


def action(**members) -> Action:
    return Action.parse(
        **{"agent": "coder", "tool": "git/git_status", "arguments_json": b'{"repo_path":"/srv"}', **members}
    )


def envelope(**members) -> bytes:
    return json.dumps(
        {"agent": "coder", "tool": "git/git_status", "arguments": {"b": 1.0, "a": "\u00e9"}, **members}
    ).encode()


def test_an_action_carries_the_very_bytes():
    found = action(
        tenant="acme", session="s1", instance="i", door="grpc", idempotency_key="k", definition_sha256=b"\1" * 32
    )
    assert found.arguments == {"repo_path": "/srv"}
    assert found.arguments_json == b'{"repo_path":"/srv"}'
    assert (found.tenant, found.agent, found.instance, found.session, found.tool) == (
        "acme",
        "coder",
        "i",
        "s1",
        "git/git_status",
    )
    assert (found.door, found.idempotency_key, found.definition_sha256) == ("grpc", "k", b"\1" * 32)
    assert action().tenant == "default"


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1,"a":2}',
        b'{ "a":1}',
        b'{"a":1.0}',
        b'{"a":"\\u0041"}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":"\\/"}',
        b"{}\n",
    ],
)
def test_arguments_in_another_form_are_refused(data):
    with pytest.raises(ActionError, match="not in canonical form"):
        action(arguments_json=data)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b'"{}"', b"{", b'{"a":1,"a":1}', b'{"a":9007199254740993}', b'{"a":"\\ud800"}']
)
def test_arguments_that_are_no_object_are_refused(data):
    with pytest.raises(ActionError, match="`arguments`"):
        action(arguments_json=data)


def test_arguments_stay_within_the_limits():
    large = canonical({str(n): "x" * 60_000 for n in range(5)})
    with pytest.raises(ActionError, match="the limit is 262144"):
        action(arguments_json=large)
    assert action(arguments_json=large, limits=JsonLimits(bytes=400_000)).arguments_json == large


@pytest.mark.parametrize(
    "members",
    [
        {"agent": ""},
        {"tool": ""},
        {"agent": "a\n"},
        {"session": "s\0"},
        {"tenant": "t" * 257},
        {"instance": "\u202e"},
        {"tool": "git/\x7f"},
        {"door": "d\t"},
        {"idempotency_key": "k" * 129},
        {"definition_sha256": b"\1" * 31},
    ],
)
def test_a_member_out_of_bounds_is_named(members):
    (name,) = members
    with pytest.raises(ActionError, match=f"`{name}`"):
        action(**members)


@pytest.mark.parametrize(
    "members",
    [
        {"cost_estimate_microusd": -1},
        {"cost_estimate_microusd": 2**53},
        {"cost_estimate_microusd": True},
        {"cost_estimate_microusd": 0.5},
        {"tokens": -1},
        {"tokens": "5"},
        {"reason": "\u00e9" * 2049},
        {"reason": "\ud800"},
        {"reason": None},
        {"model": "m\n"},
        {"provenance": ("p",) * 65},
        {"provenance": ("a\0",)},
        {"provenance": ["a"]},
    ],
)
def test_claims_out_of_bounds_are_named(members):
    (name,) = members
    with pytest.raises(ActionError, match=f"`claims.{name}`"):
        Claims(**members)


def test_the_digest_is_that_of_the_canonical_document():
    """The document is written out here by the library alone: what others must compute to get the same digest."""
    whole = {
        "digest_version": 1,
        "tenant": "t",
        "agent": "\u20ac",
        "session": 's"',
        "tool": "a/b",
        "definition": "01" * 32,
        "forwarded": {"arguments": {"z": [1.5, None], "a": "x"}},
    }
    assert DIGEST_VERSION == 1
    assert hashlib.sha256(canonical(whole)).digest() == action_digest(
        tenant="t",
        agent="\u20ac",
        session='s"',
        tool="a/b",
        definition_sha256=b"\1" * 32,
        arguments_json=canonical({"a": "x", "z": [1.5, None]}),
    )


def test_the_digest_is_pinned():
    """Approvals and records outlive a release: if these bytes change, `DIGEST_VERSION` must."""
    found = action_digest(
        tenant="default",
        agent="coder",
        session="s1",
        tool="git/git_status",
        definition_sha256=bytes(32),
        arguments_json=b'{"repo_path":"/srv"}',
    )
    document = (
        '{"agent":"coder","definition":"'
        + "0" * 64
        + '","digest_version":1,"forwarded":{"arguments":{"repo_path":"/srv"}},"session":"s1","tenant":"default","tool":"git/git_status"}'
    )
    assert found == hashlib.sha256(document.encode()).digest()


@given(
    st.lists(
        st.tuples(TEXT, TEXT, TEXT, TEXT, st.binary(min_size=32, max_size=32), ARGUMENTS.map(canonical)),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_two_actions_never_share_a_digest(pair):
    names = ("tenant", "agent", "session", "tool", "definition_sha256", "arguments_json")
    one, other = (action_digest(**dict(zip(names, members, strict=True))) for members in pair)
    assert one != other


def test_text_moved_between_members_changes_the_digest():
    common = {"definition_sha256": b"", "arguments_json": b"{}"}
    assert action_digest(tenant="a", agent='b","session":"c', session="d", tool="t", **common) != action_digest(
        tenant="a", agent="b", session='c","session":"d', tool="t", **common
    )


def test_an_envelope_is_put_into_canonical_form():
    found = parse_envelope(
        envelope(
            session="s1",
            definition_sha256="01" * 32,
            idempotency_key="k",
            claims={"reason": "look", "cost_estimate_microusd": 5, "tokens": 7, "model": "m", "provenance": ["user"]},
        )
    )
    assert found.arguments_json == '{"a":"\u00e9","b":1}'.encode()
    assert found.claims == Claims("look", 5, 7, "m", ("user",))
    assert (found.session, found.definition_sha256, found.idempotency_key) == ("s1", b"\1" * 32, "k")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the envelope cannot be read"),
        (b"[]", "the envelope must be a JSON object"),
        (b'{"agent":"a","agent":"b"}', "there twice"),
        (envelope(typo=1), "`typo` is not known"),
        (envelope(door="grpc"), "`door` is not known"),  # a door is where it came in, not what it says
        (envelope(agent=""), "`agent` is missing"),
        (envelope(agent=5), "`agent` must be text"),
        (envelope(session=None), "`session` must be text"),
        (envelope(arguments="{}"), "`arguments` must be a JSON object"),
        (envelope(arguments=None), "`arguments` must be a JSON object"),
        (envelope(claims=[]), "`claims` must be a JSON object"),
        (envelope(claims={"cost": 1}), "`claims.cost` is not known"),
        (envelope(claims={"tokens": "1"}), "`claims.tokens`"),
        (envelope(claims={"provenance": "user"}), "`claims.provenance`"),
        (envelope(claims={"provenance": [1]}), "`claims.provenance`"),
        (envelope(definition_sha256="xyz"), "`definition_sha256` must be in hex"),
        (envelope(definition_sha256=1), "`definition_sha256` must be in hex"),
        (envelope(definition_sha256="01"), "`definition_sha256` must be 32 bytes"),
    ],
)
def test_an_envelope_that_cannot_be_judged_says_why(data, why):
    with pytest.raises(ActionError, match=why):
        parse_envelope(data)


@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from(["agent", "tool", "arguments", "claims", "tenant", "definition_sha256"]),
        st.none() | TEXT | st.integers() | ARGUMENTS,
    ).map(lambda members: json.dumps(members).encode())
)
def test_any_bytes_are_an_envelope_or_one_error(data):
    try:
        found = parse_envelope(data)
    except ActionError:
        return
    assert canonical(dict(found.arguments)) == found.arguments_json


def test_what_is_printed_holds_no_values():
    found = parse_envelope(envelope(arguments={"password": "hunter2"}, claims={"reason": "hunter2"}))
    assert "hunter2" not in repr(found)
