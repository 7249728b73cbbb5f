"""The report is XML that a parser takes, whatever a case is called."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pdp.policy.junit import junit
from trying import READ, cedar_files, tried


def test_each_case_is_in_its_file_and_failures_say_why(tmp_path):
    files = cedar_files(
        '@id("all") permit (principal, action, resource);',
        f'- {{name: "<&> ]]>", {READ}, want: {{effect: deny, error: "]]>&"}}}}\n- {{name: ok, {READ}, want: {{effect: allow}}}}',
    )
    files["cases/more.yml"] = f"- {{name: more, {READ}, want: {{effect: allow}}}}".encode()
    with tried(tmp_path, files) as (_, trials):
        root = ET.fromstring(junit(trials))
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "3", "1")
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("cases/more.yml", "1", "0"),
        ("cases/notes.yaml", "2", "1"),
    ]
    first, second = root[1]
    assert first.get("name") == "<&> ]]>"
    assert (first.get("classname"), first.get("line"), second.get("line")) == ("cases/notes.yaml", "1", "2")
    (failure,) = first
    assert (
        failure.get("message")
        == "wanted deny (the error `]]>&`), got allow (permitted by `all`: policy `all` permits this action)"
    )
    assert (failure.text or "").splitlines() == [
        "cases/notes.yaml:1",
        "effect: wanted deny, got allow",
        "error: wanted `]]>&`, got no error",
    ]
    assert list(second) == []
    assert float(str(second.get("time"))) > 0
