"""The bundle's settings: strict, and never without an engine that decides."""

import pytest

from exequatur.schemas import schema
from pdp.engine.manifest import DOCUMENT_VERSION, EngineSpec, Manifest, Role
from pdp.engine.reading import PolicyError
from policies import as_json

CEDAR = {"engine": "cedar", "role": "decide"}
REGO = {"engine": "rego", "role": "restrict", "entrypoint": "exequatur/decision"}
GOOD = {"document_version": 1, "name": "team", "engines": [CEDAR, REGO], "outage": {"max_s": 30}}


def test_engines_roles_and_outage_are_read():
    read = Manifest.parse(as_json(GOOD))
    assert read.engines == (
        EngineSpec("cedar", Role.DECIDE),
        EngineSpec("rego", Role.RESTRICT, "exequatur/decision"),
    )
    assert (read.name, read.outage_max_s, read.document_version) == ("team", 30, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engines": []}, "/engines` must give one engine the role `decide`"),
        ({"engines": [REGO]}, "/engines` must give one engine the role `decide`"),
        ({"engines": [CEDAR, {**CEDAR, "role": "restrict"}]}, "/engines` must list each engine once"),
        ({"engines": [REGO, {**REGO, "engine": "opa", "role": "decide"}]}, "must list one of `rego` and `opa`"),
        ({"engines": [{"engine": "opa", "role": "decide"}]}, "/engines/0/entrypoint` is missing"),
        ({"engines": [{**CEDAR, "role": "advise"}]}, "/engines/0/role` must be one of `decide`, `restrict`"),
        ({"engines": [{**CEDAR, "engine": "lua"}]}, "/engines/0/engine` must be one of `cedar`, `rego`, `opa`"),
        ({"engines": [{"engine": "rego", "role": "decide"}]}, "/engines/0/entrypoint` is missing"),
        ({"engines": [{**REGO, "role": "decide", "entrypoint": "data.exequatur.decision"}]}, "must be a rule's path"),
        ({"engines": [{**CEDAR, "entrypoint": "a/b"}]}, "/engines/0/entrypoint` does not belong here"),
        ({"engines": {}}, "/engines` must be a list"),
        ({"engines": [1]}, "/engines/0` must be an object"),
        ({"document_version": 2}, "/document_version` must be `1`"),
        ({"document_version": None}, "/document_version` must be `1`"),
        ({"name": ""}, "/name` must be a text of 1 to 256 characters"),
        ({"outage": {"max_s": -1}}, "/outage/max_s` must be a whole number from 0 to 3600"),
        ({"outage": {"max_s": True}}, "/outage/max_s` must be a whole number"),
        ({"outage": {"max_s": 10**9}}, "/outage/max_s` must be a whole number from 0 to 3600"),
        ({"outage": {"max": 3}}, "/outage/max` is not known: did you mean `max_s`?"),
        ({"fail_open": True}, "/fail_open` is not known"),
    ],
)
def test_what_is_not_known_or_proves_nothing_is_refused(change, words):
    with pytest.raises(PolicyError, match=r"^`exequatur\.json:1`: `/") as refused:
        Manifest.parse(as_json({**GOOD, **change}))
    assert words in str(refused.value)


def test_what_is_not_said_has_its_default_and_an_editors_schema_is_ignored():
    read = Manifest.parse(as_json({"$schema": "x", "document_version": 1, "name": "n", "engines": [CEDAR]}))
    assert read == Manifest("n", (EngineSpec("cedar", Role.DECIDE),))


def test_the_schema_knows_the_version_that_the_document_has():
    assert schema("exequatur")["properties"]["document_version"]["const"] == DOCUMENT_VERSION


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"name": 1, "name": 2}', b"\xff"])
def test_what_is_not_one_strict_object_is_refused(text):
    with pytest.raises(PolicyError, match=r"exequatur\.json"):
        Manifest.parse(text)
