"""Templates and their links: each link is a policy of its own, and what is linked to nothing is refused."""

import json

import cedarpy
import pytest

from pdp.engine.cedar import CedarEngine
from pdp.engine.links import FILE, read_links
from pdp.engine.reading import PolicyError
from pdp.engine.snapshot import Snapshot
from pdp.engine.statements import read_statements
from pdp.model import Effect, ReasonKind
from policies import agents, bundle, facts, manifest, registry

REGISTRY = registry()
LOG = {"repo_path": "/work/app"}
TEMPLATES = """
@id("may-read") @reason("reading is fine") @owasp("ASI03")
permit(principal in ?principal, action in Action::"read", resource); // ?resource

@id("not-there")
forbid(principal == ?principal, action, resource in ?resource)
when { "?principal" != "?resource" };
"""
SALES = {"template": "may-read", "id": "sales.may-read", "principal": {"type": "Team", "id": "sales"}}
CODER = {"template": "may-read", "id": "coder.may-read", "principal": {"type": "Agent", "id": "coder"}}
NO_APP = {
    "template": "not-there",
    "id": "coder.not-in-app",
    "principal": {"type": "Agent", "id": "coder"},
    "resource": {"type": "Repository", "id": "/work/app"},
}


def files(*links, text=TEMPLATES):
    return {"policy.cedar": text.encode(), FILE: json.dumps({"links": list(links)}, indent=1).encode()}


def engine(*links, text=TEMPLATES):
    return CedarEngine.load(files(*links, text=text), REGISTRY, agents())


def judge(judged, agent="coder", path="/work/app", **changes):
    return judged.judge(facts("git/log", {"repo_path": path}, known=REGISTRY, agent=agent, **changes))


def test_a_link_is_a_policy_with_an_id_of_its_own_and_the_words_of_its_template():
    verdict = judge(engine(SALES, NO_APP), agent="clerk")
    assert verdict.effect is Effect.ALLOW
    (reason,) = verdict.reasons
    assert (reason.policy, reason.text, reason.owasp) == ("sales.may-read", "reading is fine", "ASI03")


def test_a_link_holds_for_whom_and_what_it_names_and_for_nobody_else():
    judged = engine(SALES, CODER, NO_APP)
    denied = judge(judged)
    assert [(reason.policy, reason.kind) for reason in denied.reasons] == [("coder.not-in-app", ReasonKind.FORBIDDEN)]
    assert [reason.policy for reason in judge(judged, path="/work/other").reasons] == ["coder.may-read"]
    assert [reason.policy for reason in judge(judged, agent="clerk").reasons] == ["sales.may-read"]
    without = engine(SALES, {**NO_APP, "resource": {"type": "Repository", "id": "/else"}})
    assert judge(without).reasons[0].kind is ReasonKind.NOT_PERMITTED


def test_what_a_link_says_stands_in_place_of_what_the_template_says():
    soft = {**NO_APP, "annotations": {"effect": "require_approval", "approvers": "security", "reason": "ask first"}}
    verdict = judge(engine(CODER, soft))
    assert (verdict.effect, verdict.approvers) == (Effect.REQUIRE_APPROVAL, ("security",))
    assert (verdict.reasons[0].policy, verdict.reasons[0].text) == ("coder.not-in-app", "ask first")


def test_a_link_is_what_cedar_itself_makes_of_the_template():
    statements = read_statements(files(SALES, CODER, NO_APP))
    assert [statement.id for statement in statements] == ["sales.may-read", "coder.may-read", "coder.not-in-app"]
    assert [statement.link for statement in statements] == ["/links/0", "/links/1", "/links/2"]
    assert {statement.where for statement in statements} == {"`policy.cedar:2`", "`policy.cedar:5`"}
    theirs = cedarpy.PolicySet.from_str(TEMPLATES).with_linked_batch(
        [
            {
                "template_id": link["template"],
                "new_id": link["id"],
                "values": {f"?{slot}": link[slot] for slot in ("principal", "resource") if slot in link},
            }
            for link in (SALES, CODER, NO_APP)
        ]
    )
    for statement in statements:
        ours = cedarpy.policies_to_pst(statement.text).static_policies["policy0"]
        link = next(each for each in theirs.to_pst().template_links if each.new_id == statement.id)
        template = theirs.to_pst().templates[link.template_id]
        assert (ours.effect, ours.action, ours.clauses) == (template.effect, template.action, template.clauses)
        assert ours.principal.entity == link.values["principal"]
        if "resource" in link.values:
            assert ours.resource.entity == link.values["resource"]


@pytest.mark.parametrize("name", ['a" , action, resource); permit(principal', "\\", "\u202e", "é\n", "?resource", ";"])
def test_a_value_is_an_id_whatever_is_in_it(name):
    odd = {**NO_APP, "resource": {"type": "Repository", "id": name}}
    (statement,) = read_statements(files(odd, text=TEMPLATES.partition("\n\n")[2]))
    assert statement.resource.entity.id == name


@pytest.mark.parametrize(
    ("links", "place", "words"),
    [
        ([SALES], "`policy.cedar:5`", "a template has no effect by itself: link it in `links.json`"),
        ([SALES, NO_APP, {**CODER, "template": "may-raed"}], "`links.json:2", "must be the `@id` of a template"),
        ([SALES, NO_APP, {**CODER, "id": "sales.may-read"}], "`links.json:2", "an id that no other policy has"),
        ([SALES, NO_APP, {**CODER, "id": "may-read"}], "`links.json:2", "an id that no other policy has"),
        ([{**SALES, "resource": NO_APP["resource"]}, NO_APP], "`links.json:", "`/links/0/resource` is not a slot"),
        ([SALES, {**NO_APP, "resource": None}], "`links.json:", "`/links/1/resource` must be an object"),
        ([SALES, {k: v for k, v in NO_APP.items() if k != "resource"}], "`links.json:", "`/links/1/resource` is missing"),
        ([{**SALES, "principal": {"type": "Team", "id": "slaes"}}, NO_APP], "`links.json:", "an agent or a team in"),
        ([{**SALES, "principal": {"type": "Agent", "id": "ghost"}}, NO_APP], "`links.json:", "an agent or a team in"),
        ([{**SALES, "principal": {"type": "Shell", "id": "x"}}, NO_APP], "`links.json:", "an agent or a team in"),
        ([SALES, {**NO_APP, "resource": {"type": "Repo", "id": "x"}}], "`links.json:", "a resource type in `tools.json`"),
        ([SALES, {**NO_APP, "resource": {"type": "Team", "id": "x"}}], "`links.json:", "a resource type in `tools.json`"),
        ([SALES, {**NO_APP, "principal": {"type": "Team", "id": "sales"}}], "`links.json:", "is not valid, at `policy.cedar:5`"),
        ([SALES, {**NO_APP, "annotations": {"id": "x"}}], "`links.json:", "must be named `approvers`"),
        ([SALES, {**NO_APP, "annotations": {"effect": "wran"}}], "`links.json:", "not valid: `policy.cedar:5`: `@effect` must be"),
        ([SALES, {**NO_APP, "note": "x"}], "`links.json:", "`/links/1/note` is not known"),
    ],
)  # fmt: skip
def test_a_link_that_is_not_understood_is_refused_with_its_place(links, place, words):
    with pytest.raises(PolicyError) as refused:
        engine(*links)
    assert str(refused.value).startswith(place)
    assert words in str(refused.value)


def test_links_without_templates_and_templates_without_an_id_are_refused():
    with pytest.raises(PolicyError, match="must be the `@id` of a template"):
        engine(SALES, text='@id("all") permit(principal, action, resource);')
    with pytest.raises(PolicyError, match=r"`policy\.cedar:1`: a template needs an `@id`"):
        engine(text="permit(principal == ?principal, action, resource);")
    with pytest.raises(PolicyError, match=r"`sub/links\.json`: links belong in one"):
        read_links({"sub/links.json": b"{}"})


def test_a_plain_policy_for_an_agent_that_does_not_exist_is_refused_too():
    text = 'permit(principal, action, resource);\nforbid(principal == Agent::"ghost", action, resource);'
    with pytest.raises(PolicyError, match=r"`policy\.cedar:2`: there is no agent `ghost`"):
        engine(text=text)


def test_links_that_no_engine_reads_are_refused():
    files = {"exequatur.json": manifest(("rego", "decide")), "a.rego": b"package x", FILE: b'{"links": []}'}
    with pytest.raises(PolicyError, match=r"`links\.json`: no engine in `exequatur\.json` reads it: list `cedar`"):
        Snapshot.load(bundle(files))
