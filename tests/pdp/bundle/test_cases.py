"""Cases are judged as actions are, and a wish that is misspelt never comes true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exequatur.trust.opened import unsafe_read_unsigned
from pdp.bundle import cases
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot
from pdp.model import Effect
from publisher import NOW, built, make

SNAPSHOT = Snapshot.load(replace(unsafe_read_unsigned(built().archive), signed=True))
READ = "agent: assistant, tool: notes/read, arguments: {path: /notes/a.md}"


def run(text: str) -> cases.Results:
    return cases.run({"cases/a.yaml": text.encode()}, SNAPSHOT)


def failure(text: str) -> str:
    (found,) = run(text).failures
    return str(found)


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        run(text)
    return str(caught.value)


def test_no_case_proves_nothing():
    for files in ({}, {"cases/a.yaml": b"[]"}, {"other/a.yaml": b"- a"}, {"cases/a.txt": b"- a"}):
        with pytest.raises(PolicyError, match="no case in"):
            cases.run(files, SNAPSHOT)


@pytest.mark.parametrize(
    "want",
    [
        "effect: allow",
        "effect: allow, kind: permitted",
        "effect: allow, policies: [office.reads]",
    ],
)
def test_a_case_that_holds(want):
    assert run(f"- {{name: n, {READ}, want: {{{want}}}}}") == cases.Results(1, ())


@pytest.mark.parametrize(
    ("want", "wanted"),
    [
        ("effect: deny", "deny"),
        ("effect: warn", "warn"),
        ("effect: require_approval", "require_approval"),
        ("effect: allow, kind: forbidden", "allow (forbidden)"),
        ("effect: allow, policies: [office.reads, other]", "allow (`office.reads`, `other`)"),
        ("effect: allow, error: boom", "allow (the error `boom`)"),
    ],
)
def test_a_case_that_does_not_hold_says_what_was_wanted_and_got(want, wanted):
    text = failure(f"# a comment\n- {{name: odd, {READ}, want: {{{want}}}}}")
    assert text.startswith(f"`cases/a.yaml:2`: case `odd`: wanted {wanted}, got allow (permitted by `office.reads`: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"- {{name: n, {READ}}}", "`want` is missing"),
        (f"- {{name: n, {READ}, want: {{}}}}", "`want.effect` is missing"),
        (f"- {{name: n, {READ}, want: {{effect: alow}}}}", "`want.effect` must be one of `allow`, `warn`"),
        (f"- {{name: n, {READ}, want: {{effect: deny, kind: forbiden}}}}", "`want.kind` must be one of"),
        (f"- {{name: n, {READ}, want: {{effect: deny, policy: a}}}}", "`want.policy` is not known"),
        (f"- {{name: n, {READ}, wnat: {{}}, want: {{effect: allow}}}}", "`wnat` is not known: did you mean `want`?"),
        (
            f"- {{name: n, {READ}, session: {{label: [a]}}, want: {{effect: allow}}}}",
            "`session.label` is not known: did you mean `labels`?",
        ),
        (f"- {{name: n, {READ}, session: {{scope: [a b]}}, want: {{effect: allow}}}}", "`session`: `scope` entry"),
        (
            f"- {{name: n, {READ}, session: {{steps: -1}}, want: {{effect: allow}}}}",
            "`session.steps` must be a whole number",
        ),
        (
            f"- {{name: n, {READ}, session: {{calls: {{a/b: x}}}}, want: {{effect: allow}}}}",
            "`session.calls.a/b` must be a whole number",
        ),
        (
            f"- {{name: n, {READ}, session: {{last_minute: {{read: 1}}}}, want: {{effect: allow}}}}",
            "`session.last_minute.read` is not known: did you mean `reads`?",
        ),
        (f"- {{name: n, {READ}, claims: {{cost: 1}}, want: {{effect: allow}}}}", "`claims.cost` is not known"),
        (
            f"- {{name: n, {READ}, claims: {{tokens: x}}, want: {{effect: allow}}}}",
            "`claims.tokens` must be a whole number",
        ),
        (
            f"- {{name: n, {READ}, door_enforced: maybe, want: {{effect: allow}}}}",
            "`door_enforced` must be true or false",
        ),
        (f"- {{name: n, {READ}, time: yesterday, want: {{effect: allow}}}}", "`time` must be a time with its zone"),
        (
            f"- {{name: n, {READ}, time: 2026-01-05T10:00:00, want: {{effect: allow}}}}",
            "`time` must be a time with its zone",
        ),
        (
            "- {name: n, agent: a, tool: b/c, arguments: [1], want: {effect: allow}}",
            "`arguments` must be an object",
        ),
        ("- {agent: a, tool: b/c, want: {effect: allow}}", "`name` is missing"),
        ("- just text", "the case must be an object"),
    ],
)
def test_what_is_misspelt_is_an_error_with_its_line(text, why):
    assert refusal("# first\n" + text).startswith("`cases/a.yaml:2`")
    assert why in refusal(text)


APPROVAL = (
    "agent: assistant, tool: mail/send, arguments: {to: a@example.com, text: t}, session: {labels: [untrusted_input]}"
)


@pytest.mark.parametrize(
    "want",
    [
        "not_policies: [notes.templates]",
        "approvers: [session-owner]",
        "obligations: []",
        "reasons: [a person looks at mail]",
        "reasons: [{kind: restricted, policy: mail.untrusted, engine: cedar, owasp: ASI01, text: person}, {kind: permitted}]",
        "record: {effect: require_approval, tool: mail/send, errors: [], reasons: [{policy: mail.untrusted}]}",
    ],
)
def test_each_wish_that_comes_true(want):
    assert run(f"- {{name: n, {APPROVAL}, want: {{effect: require_approval, {want}}}}}").failures == ()


@pytest.mark.parametrize(
    ("want", "member", "wanted", "got"),
    [
        ("not_policies: [mail.untrusted]", "not_policies", "without `mail.untrusted`", "`mail.untrusted`"),
        ("approvers: []", "approvers", "none", "`session-owner`"),
        ("approvers: [boss, session-owner]", "approvers", "`boss`, `session-owner`", "`session-owner`"),
        ("obligations: [redact]", "obligations", "`redact`", "none"),
        ("obligations: [{id: redact, parameters: {a: 1}}]", "obligations", '`redact {"a":1}`', "none"),
        ("reasons: [nobody]", "reasons", "text `nobody`", "restricted `mail.untrusted`: this session"),
        ("reasons: [{policy: mail.untrusted, kind: forbidden}]", "reasons", "kind `forbidden`, policy", "restricted"),
        ("error: boom", "error", "`boom`", "no error"),
        ("record: {tool: notes/read}", "record.tool", '"notes/read"', '"mail/send"'),
        ("record: {tol: notes/read}", "record.tol", '"notes/read"', "no such member"),
        ("record: {reasons: []}", "record.reasons", "[]", '[{"engine":"cedar"'),
        ("record: {reasons: [{policy: x}]}", "record.reasons.0", '{"policy":"x"}', 'not among [{"engine":"cedar"'),
    ],
)
def test_each_wish_that_does_not_is_told_apart(want, member, wanted, got):
    (failed,) = run(f"- {{name: n, {APPROVAL}, want: {{effect: require_approval, {want}}}}}").failures
    (difference,) = failed.differences
    assert difference.member == member
    assert difference.wanted.startswith(wanted)
    assert got in difference.got


def test_what_a_policy_obliges_to_is_held_exactly():
    both = '@obligation("{\\"id\\": \\"redact\\", \\"parameters\\": {\\"fields\\": [\\"to\\"]}}")'
    permit = f'@id("a") {both} permit (principal, action, resource);'
    case = f"- {{name: n, {READ}, want: {{effect: allow, obligations: %s}}}}"
    snapshot = Snapshot.load(replace(unsafe_read_unsigned(make(permits_cedar=permit.encode()).archive), signed=True))
    for wish, failures in {"[redact]": 0, "[{id: redact, parameters: {fields: [to]}}]": 0, "[]": 1}.items():
        assert len(cases.run({"cases/a.yaml": (case % wish).encode()}, snapshot).failures) == failures
    other = cases.run({"cases/a.yaml": (case % "[{id: redact, parameters: {fields: []}}]").encode()}, snapshot)
    assert other.failures[0].differences[0].got == '`redact {"fields":["to"]}`'


def test_a_case_goes_the_way_of_an_action():
    text = """
- {name: unknown tool, agent: assistant, tool: notes/burn, want: {effect: deny, kind: invalid}}
- {name: unknown agent, agent: x, tool: notes/read, arguments: {path: /notes/a}, want: {effect: deny, kind: invalid}}
- {name: unknown argument, agent: assistant, tool: notes/read, arguments: {pth: /notes/a}, want: {effect: deny, kind: invalid}}
- {name: out of scope, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {scope: [mail/*]}, want: {effect: deny, kind: invalid}}
- {name: no scope, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {scope: []}, want: {effect: deny, kind: invalid}}
- {name: out of steps, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, session: {steps: 100}, want: {effect: deny, kind: exhausted}}
- {name: out of money, agent: assistant, tool: mail/send, arguments: {to: a@example.com, text: t}, session: {spent_microusd: 5000000}, want: {effect: deny, kind: exhausted}}
- {name: dear, agent: assistant, tool: notes/read, arguments: {path: /notes/a}, claims: {cost_estimate_microusd: 5000001}, want: {effect: deny, kind: exhausted}}
"""
    assert run(text) == cases.Results(8, ())


def test_each_fact_of_the_session_reaches_the_policy():
    text = """
- name: all of it
  agent: assistant
  tool: notes/read
  arguments: {path: /notes/a}
  claims: {reason: r, cost_estimate_microusd: 1, tokens: 2, model: m, provenance: [p, o]}
  door_enforced: true
  time: 2026-02-03T04:05:06+01:00
  session:
    subject: anna
    delegation_chain: [z, a]
    purpose: fix
    task: "two\\nlines"
    domains: [d]
    labels: [l]
    steps: 3
    age_s: 60
    spent_microusd: 4
    calls: {notes/read: 2}
    last_minute: {reads: 11, writes: 2}
  want: {effect: allow}
"""
    (case,) = cases.read({"cases/a.yaml": text.encode()})
    session = cases.session_of(case.run, case.action, SNAPSHOT, case.time)
    assert case.time.isoformat() == "2026-02-03T03:05:06+00:00"
    assert case.door_enforced
    assert (case.action.claims.provenance, case.action.claims.tokens) == (("p", "o"), 2)
    assert session.enforcer == "spiffe://example.com/sidecar/assistant"
    assert (session.subject, session.delegation_chain) == ("anna", ("z", "a"))
    assert (session.intent.purpose, session.intent.task, session.intent.domains) == ("fix", "two\nlines", ("d",))
    assert (session.labels, session.steps, session.spent_microusd) == ({"l"}, 3, 4)
    assert (case.time - session.opened_at).total_seconds() == 60
    assert session.calls == {"notes/read": 2}
    assert session.last_minute.totals(case.time) == (11, 2)
    assert cases.judged(case, SNAPSHOT).decision.effect is Effect.ALLOW


def test_cases_are_about_the_policies_not_about_the_signature():
    text = f"- {{name: n, {READ}, want: {{effect: allow}}}}"
    for changes in ({"signed": False}, {"not_before": NOW, "expires_at": NOW}, {"tenant": "acme"}):
        assert cases.run({"cases/a.yaml": text.encode()}, replace(SNAPSHOT, **changes)).failures == ()


def test_an_error_is_found_by_a_part_of_its_text():
    loop = (
        'decision := {"deny": {x | x := concat("", ["a", "b"]); count([n | some n in numbers.range(1, 10000000)]) < 0}}'
    )
    counted = f"- {{name: n, {READ}, want: {{effect: deny, kind: error, error: more work or memory}}}}"
    results = make(
        decision_rego=f"package exequatur\n\n{loop}\n".encode(),
        cases__mail_yaml=None,
        cases__notes_yaml=counted.encode(),
    )
    assert results.results.failures == ()
