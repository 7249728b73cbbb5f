"""The bundle's settings: strict, and never without an engine that decides."""

import pytest

from pdp.engine.manifest import EngineSpec, Manifest, Role
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
        ({"engines": []}, "no engine has the role `decide`"),
        ({"engines": [REGO]}, "no engine has the role `decide`"),
        ({"engines": [CEDAR, {**CEDAR, "role": "restrict"}]}, "listed twice"),
        ({"engines": [REGO, {**REGO, "engine": "opa", "role": "decide"}]}, "`rego` and `opa` both judge"),
        ({"engines": [{"engine": "opa", "role": "decide"}]}, "`entrypoint` must be"),
        ({"engines": [{**CEDAR, "role": "advise"}]}, "`role` must be"),
        ({"engines": [{**CEDAR, "engine": "lua"}]}, "`engine` must be"),
        ({"engines": [{"engine": "rego", "role": "decide"}]}, "`entrypoint` must be"),
        ({"engines": [{**REGO, "role": "decide", "entrypoint": "data.exequatur.decision"}]}, "`entrypoint` must be"),
        ({"engines": [{**CEDAR, "entrypoint": "a/b"}]}, "unknown member `entrypoint`"),
        ({"engines": {}}, "`engines` must be a list"),
        ({"engines": [1]}, "an object is needed"),
        ({"document_version": 2}, "`document_version` must be 1"),
        ({"document_version": None}, "`document_version` must be 1"),
        ({"name": ""}, "`name` must be"),
        ({"outage": {"max_s": -1}}, "`max_s` must be"),
        ({"outage": {"max_s": True}}, "`max_s` must be"),
        ({"outage": {"max_s": 10**9}}, "`max_s` must be"),
        ({"outage": {"max": 3}}, "unknown member `max`"),
        ({"fail_open": True}, "unknown member `fail_open`"),
    ],
)
def test_what_is_not_known_or_proves_nothing_is_refused(change, words):
    with pytest.raises(PolicyError, match=r"exequatur\.json") as refused:
        Manifest.parse(as_json({**GOOD, **change}))
    assert words in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"name": 1, "name": 2}', b"\xff"])
def test_what_is_not_one_strict_object_is_refused(text):
    with pytest.raises(PolicyError, match=r"exequatur\.json"):
        Manifest.parse(text)
