"""What differs between two bundles: every widening is found by its id, and what is harmless is no widening."""

from __future__ import annotations

import pytest

from differing import CEDAR, Draft, Edit, edited, found, side, usual, written
from pdp.policy.diff.change import Direction
from policies import STRING, tool


def put(holder, name, value) -> None:
    """Set a member, or take it out where the value is None."""
    if value is None:
        holder.pop(name, None)
    else:
        holder[name] = value


def of_tool(name: str, **members) -> Edit:
    return lambda draft: [put(draft.tools[name], member, value) for member, value in members.items()]


def of_agent(name: str, **members) -> Edit:
    return lambda draft: draft.agents[name].update(members)


def of_schema(name: str, **members) -> Edit:
    return lambda draft: [put(draft.schema(name), member, value) for member, value in members.items()]


def of_argument(name: str, argument: str, **members) -> Edit:
    return lambda draft: [
        put(draft.schema(name)["properties"][argument], member, value) for member, value in members.items()
    ]


def of_policy(name: str, old: str, new: str) -> Edit:
    def edit(draft: Draft) -> None:
        assert old in draft.cedar[name]
        draft.cedar[name] = draft.cedar[name].replace(old, new)

    return edit


def of_settings(**members) -> Edit:
    return lambda draft: draft.settings.update(members)


def of_limits(**members) -> Edit:
    return lambda draft: draft.limits.update(members)


WIPE = tool("disk", "wipe", {}, [], access="write")

WIDENINGS: list[tuple[str, Edit]] = [
    ("tool:disk/wipe:added", lambda draft: draft.tools.update({"disk/wipe": WIPE})),
    ("tool:git/commit:access", of_tool("git/commit", access="read")),
    ("tool:crm/search:bulk", of_tool("crm/search", bulk=False)),
    ("tool:mail/send:egress", of_tool("mail/send", egress=False)),
    ("tool:git/log:outage", of_tool("git/log", outage="warn")),
    ("tool:git/log:labels", of_tool("git/log", labels=[])),
    ("tool:crm/search:data_classes", of_tool("crm/search", data_classes=[])),
    ("tool:mail/send:price", of_tool("mail/send", price_microusd=10)),
    ("tool:git/commit:schema", of_tool("git/commit", open=True)),
    (
        "tool:git/commit:schema",
        lambda draft: draft.schema("git/commit")["properties"].update(force={"type": "boolean"}),
    ),
    ("tool:mail/send:schema", of_schema("mail/send", required=["to"])),
    ("tool:bank/pay:schema", of_argument("bank/pay", "amount", maximum=100_000)),
    ("tool:bank/pay:schema", of_argument("bank/pay", "amount", minimum=-5)),
    ("tool:bank/pay:schema", of_argument("bank/pay", "copies", type="number")),
    ("tool:bank/pay:schema", of_argument("bank/pay", "currency", enum=["EUR", "USD", "GBP"])),
    ("tool:bank/pay:schema", of_argument("bank/pay", "currency", enum=None)),
    ("tool:bank/pay:schema", of_argument("bank/pay", "currency", maxLength=None)),
    ("tool:bank/pay:schema", of_argument("bank/pay", "memo", pattern=None)),
    ("agent:robot:added", lambda draft: draft.agents.update(robot={"owner": "a@example.com"})),
    ("agent:coder:enforcers", of_agent("coder", enforcers=["spiffe://example.com/coder", "spiffe://evil.example/x"])),
    ("agent:coder:enforcers", of_agent("coder", enforcers=["spiffe://evil.example/x"])),
    ("agent:coder:teams", of_agent("coder", teams=["engineering", "sales"])),
    ("agent:coder:models", of_agent("coder", models=["small", "large"])),
    ("agent:coder:domains", of_agent("coder", domains=["code", "people"])),
    ("limit:max_steps", of_limits(max_steps=101)),
    ("limit:max_budget_microusd", of_limits(max_budget_microusd=10_000_001)),
    ("limit:max_lifetime_s", of_limits(max_lifetime_s=3601)),
    ("outage:max_s", of_settings(outage={"max_s": 3600})),
    ("policy:all", lambda draft: draft.cedar.update(all="permit (principal, action, resource);")),
    ("policy:tainted", lambda draft: draft.cedar.pop("tainted")),
    ("policy:late", lambda draft: draft.cedar.pop("late")),
    ("policy:quiet", lambda draft: [draft.links.clear(), put(draft.__dict__, "templates", "")]),
    ("policy:reads", of_policy("reads", 'principal in Team::"engineering"', "principal")),
    ("policy:reads", of_policy("reads", 'action in Action::"read"', "action")),
    ("policy:works", of_policy("works", 'Action::"mail/send"]', 'Action::"mail/send", Action::"bank/pay"]')),
    ("policy:works", of_policy("works", "context.session.steps < 50 &&", "")),
    ("policy:pays", of_policy("pays", '@obligation("receipt")', "")),
    ("policy:big", of_policy("big", "cfo,treasury", "treasury")),
    ("policy:big", of_policy("big", '@effect("require_approval") @approvers("cfo,treasury")', '@effect("warn")')),
    ("policy:tainted", of_policy("tainted", "forbid", '@effect("warn") forbid')),
    ("policy:tainted", of_policy("tainted", "principal,", 'principal in Team::"sales",')),
    ("policy:tainted", of_policy("tainted", '("untrusted_input")', '("untrusted_input") && context.session.steps > 5')),
    ("policy:new", of_policy("new", "steps < 10", 'steps < 10 || context.session.subject != ""')),
    ("policy:tainted", lambda draft: draft.cedar.update(tainted="permit (principal, action, resource);")),
    ("case:cases/all.yaml#mail after a stranger's words", lambda draft: draft.cedar.pop("tainted")),
    ("case:cases/all.yaml#much is paid", lambda draft: draft.cedar.pop("big")),
    ("case:cases/all.yaml#much is paid", of_policy("big", "cfo,treasury", "treasury")),
    ("case:cases/all.yaml#little is paid", of_policy("pays", '@obligation("receipt")', "")),
]

UNCLEAR: list[tuple[str, Edit]] = [
    ("policy:works", of_policy("works", "steps < 50", "steps < 51")),
    ("policy:big", of_policy("big", "amount > 100", "amount > 1000")),
    ("policy:reads", of_policy("reads", 'Team::"engineering"', 'Team::"sales"')),
    ("policy:pays", of_policy("pays", '"receipt"', '"other"')),
    ("policy:quiet", lambda draft: draft.links[0].update(principal={"type": "Agent", "id": "coder"})),
    (
        "tool:git/log:definition",
        lambda draft: draft.tools["git/log"]["definition"].update(description="run this first"),
    ),
    ("tool:git/log:definition", of_argument("git/log", "repo", default="/etc")),
    ("tool:git/log:definition", of_argument("git/log", "repo", description="always `/etc`")),
    ("tool:bank/pay:schema", of_argument("bank/pay", "memo", pattern="^.*$")),
    ("tool:bank/pay:schema", of_argument("bank/pay", "memo", format="uri")),
    ("tool:bank/pay:environment", lambda draft: [of_tool("bank/pay", environment="dev")(draft), compares(draft)]),
    ("tool:git/commit:resource", of_tool("git/commit", resource={"type": "Repository", "id": "repo"})),
    ("tool:mail/send:arguments", of_tool("mail/send", arguments=None)),
    ("agent:clerk:environment", lambda draft: [of_agent("clerk", environment="dev")(draft), compares(draft)]),
    ("agent:coder:owner", lambda draft: [of_agent("coder", owner="x@example.com")(draft), compares(draft)]),
    # A label that a permit asks for, a group that a permit names, a team that a forbid is about: each may widen.
    ("tool:git/commit:labels", lambda draft: [of_tool("git/commit", labels=["checked"])(draft), asks(draft)]),
    ("tool:git/log:access", lambda draft: [of_tool("git/log", access="write")(draft), writes(draft)]),
    ("agent:clerk:teams", of_agent("clerk", teams=["sales"])),
    # So may one that no policy names, where a policy looks for whatever there is.
    ("tool:git/commit:labels", lambda draft: [of_tool("git/commit", labels=["x"])(draft), asks_for_any(draft)]),
    ("agent:coder:domains", lambda draft: [of_agent("coder", domains=[])(draft), asks_for_any(draft)]),
    ("tool:git/commit:labels", lambda draft: [of_tool("git/commit", labels=["checked"])(draft), spells(draft)]),
]


def asks(draft: Draft) -> None:
    draft.cedar["asks"] = 'permit (principal, action, resource) when { context.session.labels.contains("checked") };'


def writes(draft: Draft) -> None:
    draft.cedar["writes"] = 'permit (principal in Team::"sales", action in Action::"write", resource);'


def compares(draft: Draft) -> None:
    draft.cedar["compares"] = """forbid (principal, action, resource) when {
        context.tool.environment != "" && context.tool.environment != principal.environment
        && principal.owner == "nobody@example.com" };"""


def asks_for_any(draft: Draft) -> None:
    draft.cedar["any"] = """permit (principal, action, resource)
        unless { context.session.labels.isEmpty() || context.session.intent.domains.containsAll(principal.domains) };"""


def spells(draft: Draft) -> None:
    draft.cedar["spells"] = r"""permit (principal, action, resource)
        when { context.session.labels.contains("\u{63}hecked") };"""


def renamed(draft: Draft) -> None:
    draft.cedar["stained"] = draft.cedar.pop("tainted")


HARMLESS: list[tuple[str, Edit]] = [
    ("nothing", lambda draft: None),
    ("a policy under another id", renamed),
    ("policies in another order", lambda draft: put(draft.__dict__, "cedar", dict(reversed(draft.cedar.items())))),
    (
        "a policy in another file",
        lambda draft: draft.more.update({"a.cedar": f'@id("big") {draft.cedar.pop("big")}'.encode()}),
    ),
    ("a comment", of_policy("works", "when", "// not for ever\n when")),
    ("white space", of_policy("works", "steps < 50", "steps<50")),
    ("brackets", of_policy("works", "context.session.steps < 50 &&", "(context.session.steps < 50) &&")),
    ("a comma at the end", of_policy("works", '"mail/send"]', '"mail/send",]')),
    ("two clauses for one", of_policy("works", "50 &&", "50 } when {")),
    (
        "`unless` for `!`",
        of_policy("new", "unless { context.session.steps < 10 }", "when { !(context.session.steps < 10) }"),
    ),
    ("a reason", of_policy("reads", "permit", '@reason("engineers may read") permit')),
    ("a risk's name", of_policy("tainted", "forbid", '@owasp("ASI01") forbid')),
    ("a policy written twice", lambda draft: draft.cedar.update(again=CEDAR["tainted"])),
    (
        "a new forbid",
        lambda draft: draft.cedar.update(no='forbid (principal, action == Action::"git/commit", resource);'),
    ),
    ("a permit that is gone", lambda draft: draft.cedar.pop("works")),
    (
        "a permit that became a forbid",
        lambda draft: draft.cedar.update(works='forbid (principal, action == Action::"mail/send", resource);'),
    ),
    ("one more condition", of_policy("works", "50 &&", '50 && context.session.subject != "" &&')),
    ("a warning that became a denial", of_policy("late", '@effect("warn")', "")),
    (
        "an approval that became a denial",
        of_policy("big", '@effect("require_approval") @approvers("cfo,treasury")', ""),
    ),
    ("one more approver", of_policy("big", "cfo,treasury", "board,cfo,treasury")),
    ("a tool that is gone", lambda draft: [draft.tools.pop("crm/search")]),
    ("a tool that is marked", of_tool("git/commit", bulk=True, egress=True)),
    ("a label that nothing asks for", of_tool("git/commit", labels=["committed"])),
    ("a dearer tool", of_tool("mail/send", price_microusd=5000)),
    ("a shorter text", of_argument("bank/pay", "currency", maxLength=2)),
    ("an argument that is needed", of_schema("bank/pay", required=["amount", "currency", "memo"])),
    ("an agent without enforcers", of_agent("clerk", enforcers=[])),
    ("an agent that is gone", lambda draft: draft.agents.pop("temp")),
    ("where a tool acts, of which no policy speaks", of_tool("bank/pay", environment="dev")),
    ("an owner", of_agent("coder", owner="else@example.com")),
    ("smaller limits", of_limits(max_steps=1, max_budget_microusd=1, max_lifetime_s=1)),
    ("less time alone", of_settings(outage={"max_s": 0})),
    ("another name", of_settings(name="other")),
    ("a page for people", lambda draft: draft.more.update({"README.md": b"# Tiny"})),
    (
        "one case more",
        lambda draft: draft.cases.append({**draft.cases[0], "name": "again", "arguments": {"repo": "b"}}),
    ),
]
"""Edits after which nothing is wider, nor may be: some are tighter, most are nothing."""

NOTHING = 13
"""The first of `HARMLESS` change no meaning at all."""


@pytest.mark.parametrize(("name", "edit"), WIDENINGS)
def test_a_widening_is_found_by_its_id(name, edit):
    compare = found if name.startswith("case:") else written
    assert compare(usual(), side(edited(edit).files()))[name].direction is Direction.WIDER


@pytest.mark.parametrize(("name", "edit"), UNCLEAR)
def test_what_nobody_can_tell_is_neither_tighter_nor_nothing(name, edit):
    assert written(usual(), side(edited(edit).files()))[name].direction is Direction.CHANGED


MARKED = 'forbid (principal, action, resource) when { ! (action in Action::"bulk") };'
FREED = [
    (MARKED, {"bulk": True}),
    ('forbid (principal, action, resource) unless { action in Action::"write" };', {"access": "write"}),
    ("forbid (principal, action, resource) when { context.tool.bulk == false };", {"bulk": True}),
    ('permit (principal, action in Action::"\\u{77}rite", resource);', {"access": "write"}),
    ("permit (principal, action, resource) when { context.tool.egress };", {"egress": True}),
]
CONDITIONS = [
    'context.session.labels.contains("odd") ==  false',
    'context.session.labels == ["untrusted_input"]',
    "context.session.labels.isEmpty()",
    '["untrusted_input"].containsAll( context.session.labels)',
    'if context.session.labels.contains("odd") then false else true',
]
FREED += [
    (f"forbid (principal, action, resource) when {{ {condition} }};", {"labels": ["untrusted_input", "odd"]})
    for condition in CONDITIONS
]


@pytest.mark.parametrize(("rule", "marks"), FREED)
def test_a_mark_that_frees_a_tool_is_not_called_tighter(rule, marks):
    """A mark holds a tool back, but where a policy turns it round: what a forbid excepts may run with it."""

    def ruled(draft: Draft) -> None:
        draft.cedar = {"all": "permit (principal, action, resource);", "turned": rule}

    marked = edited(lambda draft: [ruled(draft), of_tool("git/log", **marks)(draft)])
    (change,) = written(side(edited(ruled).files()), side(marked.files())).values()
    assert (change.direction, change.id) == (Direction.CHANGED, f"tool:git/log:{next(iter(marks))}")


@pytest.mark.parametrize("number", range(len(HARMLESS)), ids=[name for name, _ in HARMLESS])
def test_what_is_harmless_wants_nobodys_word(number):
    changes = found(usual(), side(edited(HARMLESS[number][1]).files())).values()
    assert [change for change in changes if change.wants_accepting] == []
    if number < NOTHING:
        assert {change.direction for change in changes} <= {Direction.NEUTRAL}
        assert all("called" in change.text or "as before" in change.text for change in changes)


@pytest.mark.parametrize("draft", [edited(), edited(asks), edited(writes)])
def test_a_bundle_is_what_it_is(draft):
    assert found(side(draft.files()), side(draft.files())) == {}


@pytest.mark.parametrize(
    ("name", "edit"), [(name, edit) for name, edit in WIDENINGS if name.startswith(("agent:", "limit:", "outage:"))]
)
def test_back_again_is_tighter(name, edit):
    new = side(edited(edit).files())
    there, back = written(usual(), new), written(new, usual())
    assert {change.direction for change in there.values()} == {Direction.WIDER}
    replaced = name == "agent:coder:enforcers" and len(new.snapshot.agents["coder"].enforcers) == 1
    for at in there:
        expected = Direction.WIDER if replaced else Direction.TIGHTER
        assert back[at.replace(":added", ":removed")].direction is expected


def test_a_case_that_is_allowed_now_says_so():
    change = found(usual(), side(edited(lambda draft: draft.cedar.pop("tainted")).files()))
    flip = change["case:cases/all.yaml#mail after a stranger's words"]
    assert flip.allows
    assert flip.text == "DENY by `tainted` → ALLOW"


def test_a_case_of_the_old_bundle_counts_where_the_new_one_has_dropped_it():
    def edit(draft: Draft) -> None:
        draft.cedar.pop("tainted")
        draft.cases = draft.cases[:1]

    assert found(usual(), side(edited(edit).files()))["case:cases/all.yaml#mail after a stranger's words"].allows


def test_cases_of_one_name_are_told_apart():
    def edit(draft: Draft) -> None:
        draft.cases += [
            {**draft.cases[2], "session": {"purpose": "fix", "steps": steps, "labels": ["untrusted_input"]}}
            for steps in (1, 2)
        ]

    old, new = edited(edit), edited(edit)
    new.cedar.pop("tainted")
    ids = [name for name in found(side(old.files()), side(new.files())) if name.startswith("case:")]
    name = "case:cases/all.yaml#mail after a stranger's words"
    assert ids == [name, f"{name} (2)", f"{name} (3)"]


def test_an_engine_that_fails_is_no_answer():
    """An integer overflows in Cedar: the action is denied before and after, and nobody has judged it."""
    forbid = 'forbid (principal, action == Action::"bank/pay", resource) when { context.input.amount + 9223372036854775807 > 0 };'
    hard = 'forbid (principal, action == Action::"bank/pay", resource);'
    old, new = (edited(lambda draft, text=text: draft.cedar.update(no=text)) for text in (hard, forbid))
    change = found(side(old.files()), side(new.files()))["case:cases/all.yaml#much is paid"]
    assert change.direction is Direction.CHANGED
    assert change.text.startswith("the new one fails")


def test_one_of_two_that_say_the_same_is_no_loss():
    old = side(edited(lambda draft: draft.cedar.update(again=CEDAR["tainted"])).files())
    assert written(old, usual()) == {}
    spelt = edited(of_policy("tainted", "forbid (principal", "forbid(  principal"))
    assert written(old, side(spelt.files())) == {}


def test_two_that_change_names_are_two_names():
    def swap(draft: Draft) -> None:
        draft.cedar["tainted"], draft.cedar["late"] = draft.cedar["late"], draft.cedar["tainted"]

    changes = written(usual(), side(edited(swap).files()))
    assert {name: change.direction for name, change in changes.items()} == {
        "policy:tainted": Direction.NEUTRAL,
        "policy:late": Direction.NEUTRAL,
    }


def test_an_argument_that_is_gone_and_one_that_came_are_a_widening():
    def edit(draft: Draft) -> None:
        properties = draft.schema("git/commit")["properties"]
        properties["branch"] = STRING
        draft.schema("git/commit")["required"] = []
        properties.pop("repo")

    change = found(usual(), side(edited(edit).files()))["tool:git/commit:schema"]
    assert change.direction is Direction.WIDER
    assert "takes `branch` too" in change.text
    assert "does not take `repo` any more" in change.text
