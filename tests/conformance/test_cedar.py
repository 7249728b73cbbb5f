"""Cedar's own corpus: every policy file is taken apart and judged as Cedar's makers say, by the calls that we make.

The requests go to the policies as the splitter gives them, one text a statement, put together again as slices are.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter

import cedarpy
import pytest

from others import members
from pdp.engine.cedar_text import SourceLimits, sources
from pdp.engine.slices import joined

pytestmark = pytest.mark.conformance

POSITION = re.compile(r"\bpolicy\d+\b")


@functools.cache
def files() -> dict[str, bytes]:
    archives = ("cedar-corpus-tests.tar.gz", "cedar-tests.tar.gz")
    return {name.removeprefix("./"): data for archive in archives for name, data in members(archive)}


def cases() -> list[tuple[str, dict]]:
    named = ((name, data) for name, data in files().items() if not name.endswith("entities.json"))
    return [(name, json.loads(data)) for name, data in sorted(named) if name.endswith(".json")]


def statements(case: dict) -> str:
    """Take a policy file apart, and put it together as we do."""
    return joined(sources({"policy.cedar": files()[case["policies"]]}, SourceLimits()))


def test_every_policy_file_is_taken_apart_into_the_same_policies(tally):
    counts: Counter[str] = Counter()
    different = []
    for name, case in cases():
        whole = cedarpy.PolicySet.from_str(files()[case["policies"]].decode())
        parts = list(sources({"policy.cedar": files()[case["policies"]]}, SourceLimits()))
        counts["files"] += 1
        counts["policies"] += len(parts)
        ours = cedarpy.PolicySet.from_str(joined(parts))
        alone = [cedarpy.PolicySet.from_str(part.text) for part in parts]
        same = str(ours) == str(whole) and len(whole) == len(parts) and all(len(policy) == 1 for policy in alone)
        if not same:
            different.append(name)
    tally("Cedar corpus: files taken apart", counts["files"], wrong=len(different))
    assert different == []
    assert counts == {"files": 7831, "policies": 7839}


def test_every_request_is_decided_with_the_same_reasons_and_errors(tally):
    seen, wrong = 0, []
    for name, case in cases():
        schema = cedarpy.Schema.from_str(files()[case["schema"]].decode())
        policies = cedarpy.PolicySet.from_str(statements(case))
        entities = cedarpy.Entities.from_json_str(files()[case["entities"]].decode(), schema)
        for number, request in enumerate(case["requests"]):
            seen += 1
            asked = {part: request[part] for part in ("principal", "action", "resource")}
            asked["context"] = json.dumps(request["context"])
            checked = schema if request.get("validateRequest", True) else None
            found = cedarpy.is_authorized(asked, policies, entities, checked)
            errors = [(POSITION.search(error) or [error])[0] for error in found.diagnostics.errors]
            got = (found.decision.value.lower(), sorted(found.diagnostics.reasons), sorted(errors))
            if got != (request["decision"], sorted(request["reason"]), sorted(request["errors"])):
                wrong.append((name, number))
    tally("Cedar corpus: requests", seen, wrong=len(wrong))
    assert wrong == []
    assert seen == 62_546


def test_every_policy_file_is_valid_where_its_makers_say_so(tally):
    seen, wrong = 0, []
    for name, case in cases():
        seen += 1
        schema = cedarpy.Schema.from_str(files()[case["schema"]].decode())
        found = cedarpy.validate_policies(statements(case), schema)
        if found.validation_passed is not case["shouldValidate"]:
            wrong.append(name)
    tally("Cedar corpus: validations", seen, wrong=len(wrong))
    assert wrong == []
    assert seen == 7831
