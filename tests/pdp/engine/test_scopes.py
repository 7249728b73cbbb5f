"""Heads of policies: what is put together from a form and its strings is what Cedar reads from the text itself."""

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdp.engine.cedar_text import SourceLimits, sources
from pdp.engine.reading import PolicyError
from pdp.engine.scopes import Heads
from pdp.engine.statements import TOGETHER, read_statements

PLAIN = st.text("ab01é一 /()[]{}:;,@?#=", max_size=6)
ESCAPED = st.sampled_from(['\\"', "\\\\", "\\n", "\\u{e9}", "\\x41", "0", "1"])
TEXTS = st.lists(PLAIN | ESCAPED, max_size=3).map("".join)
PRINCIPALS = ["principal", 'principal == Agent::"{}"', 'principal in Team::"{}"', "principal is Agent"]
PRINCIPALS += ['principal is Agent in Team::"{}"', "principal == ?principal", "principal in ?principal"]
ACTIONS = ["action", 'action == Action::"{}"', 'action in Action::"{}"', 'action in [Action::"{}", Action::"{}"]']
RESOURCES = ["resource", 'resource == Tool::"{}"', 'resource in Tool :: "{}"', 'resource is A::B in A::B::"{}"']
NOTES = ["", '@id("{}")', '@id("{}")\n@reason("{}") // "not" a note\n', '@x @y("{}")']


@st.composite
def heads(draw):
    parts = [draw(st.sampled_from(some)) for some in (NOTES, PRINCIPALS, ACTIONS, RESOURCES)]
    effect = draw(st.sampled_from(["permit", "forbid"]))
    text = '{}\n{} ( {},{} , {}) when {{ context.a == "1" }};'
    whole = text.format(parts[0], effect, *parts[1:])
    return "".join(
        piece if n == 0 else draw(TEXTS) + piece for n, piece in enumerate(whole.replace('"{}"', '"\0"').split("\0"))
    )


def as_cedar_reads(source):
    found = cedarpy.policies_to_pst(f"{source.up_to(source.head[-1])};")
    ((_, head),) = [*found.static_policies.items(), *found.templates.items()]
    return head, bool(found.templates)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(heads(), min_size=1, max_size=6))
def test_a_head_is_what_cedar_reads(listed):
    reader = Heads()
    for source in sources({"a.cedar": "\n".join(listed).encode()}, SourceLimits()):
        head, is_template = reader.read(source, source.head)
        wanted, is_one = as_cedar_reads(source)
        assert (head.effect, head.principal, head.action, head.resource, dict(head.annotations), is_template) == (
            *(wanted.effect, wanted.principal, wanted.action, wanted.resource, dict(wanted.annotations)),
            is_one,
        )


def many(count, at, wrong):
    """Give policies one a line, of which the one at `at` is something else."""
    lines = [f'@id("p{n}") permit (principal, action, resource) when {{ context.a == {n} }};' for n in range(count)]
    lines[at] = wrong
    return {"a.cedar": "\n".join(lines).encode()}


@pytest.mark.parametrize("at", [0, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 3])
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("permit (principal, action, resource) when { 1 + };", "unexpected token"),
        ("permit (principal, action, resource) when { true } maybe { true };", "invalid policy condition"),
        ("permit (principal, action);", "resource"),
        ('@id("p7000") @id("p7001") permit (principal, action, resource);', "duplicate annotation"),
    ],
)
def test_of_many_the_one_that_is_wrong_is_named(at, wrong, why):
    with pytest.raises(PolicyError, match=rf"^`a\.cedar:{at + 1}`: .*{why}"):
        read_statements(many(3 * TOGETHER, at, wrong))


def test_of_two_that_are_wrong_the_first_is_named():
    files = many(3 * TOGETHER, TOGETHER + 1, "permit (principal, action, resource) when { 1 + };")
    lines = files["a.cedar"].replace(b'@id("p3")', b'@idd("p3")')
    with pytest.raises(PolicyError, match=r"^`a\.cedar:4`: unknown annotation"):
        read_statements({"a.cedar": lines})


def test_many_are_read_in_pieces_with_pauses_between_them():
    pauses: list[int] = []
    files = many(4 * TOGETHER, 0, "permit (principal, action, resource);")
    assert len(read_statements(files, pause=lambda: pauses.append(1))) == 4 * TOGETHER
    assert len(pauses) == 4
