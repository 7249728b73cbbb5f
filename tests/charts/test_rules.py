"""Alerts fire when they should and stay silent when they should not, and each has a page to go by.

Rules are held by promtool as they are shipped; so are the dashboard's queries.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from helm import CHART, ROOT, VALUES, rendered

RULES = sorted((CHART / "rules").glob("*.yaml"))
CASES = sorted((ROOT / "tests" / "charts" / "rules").glob("*.yaml"))
ALERTS = [rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "dashboards" / "exequatur.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
WIDTH, HEIGHT = 24, 20
"""A screen in Grafana's units, below its own bars."""


def promtool(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([os.environ["EXEQUATUR_PROMTOOL"], *args], capture_output=True, text=True, check=False)


def made() -> dict[str, set[str]]:
    """Give what the code makes: each series by name, and its labels."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, set[str]] = {"up": {"job"}}
    for family in (family for families in module.metrics().values() for family in families):
        ends = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        for end in ends:
            found[family.name + end] = {*family.labels, *(("le",) if end == "_bucket" else ())}
    return found


def names(query: str) -> set[str]:
    """Give the series that a query asks for."""
    return set(re.findall(r"\b(?:exequatur_\w+|up(?=\{))", query))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_the_rules_are_what_prometheus_reads(path):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_each_alert_fires_when_it_should_and_not_when_it_should_not(path):
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    fires: set[str] = set()
    silent: set[str] = set()
    for path in CASES:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    assert fires == silent == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_it_means_and_its_page_says_what_to_do(rule):
    page = (ROOT / "docs" / "operate.md").read_text()
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    assert rule["annotations"]["runbook_url"] == f"docs/operate.md#{rule['alert'].lower()}"
    (section,) = re.findall(rf"^### {rule['alert']}\n\n(.*?)(?=\n#|\Z)", page, re.DOTALL | re.MULTILINE)
    assert re.search(r"^- Look: ", section, re.MULTILINE), "where to look is missing"
    assert re.search(r"^- Do: ", section, re.MULTILINE), "what to do is missing"


def test_no_section_is_about_an_alert_that_is_not_there():
    page = (ROOT / "docs" / "operate.md").read_text()
    sections = re.findall(r"^### (Exequatur\w+)$", page, re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)


def test_whatever_is_asked_for_is_counted_by_the_code():
    known = made()
    for what, query in [*((rule["alert"], rule["expr"]) for rule in ALERTS), *QUERIES]:
        assert names(query), what
        for name in names(query):
            assert name in known, f"{what}: nothing counts `{name}`"
        selected = {
            label for chosen in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*[=!]", chosen)
        }
        wanted = set().union(*(known[name] for name in names(query))) | {"namespace", "pod", "job"}
        assert selected <= wanted, f"{what}: no series of these has {selected - wanted}"


def test_the_dashboards_queries_are_what_prometheus_reads(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$namespace", ".*").replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(QUERIES)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$" not in file.read_text(), "a variable that nobody sets"


def test_the_dashboard_is_one_screen_without_holes_or_overlaps():
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert taken.keys() == {(x, y) for x in range(WIDTH) for y in range(HEIGHT)}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"} == known


def test_the_chart_ships_the_very_rules_and_dashboard():
    watched: Path = next(path for path in VALUES if path.stem == "watched")
    objects = rendered(watched)
    shipped = [group for rule in objects.of("PrometheusRule") for group in rule["spec"]["groups"]]
    files = {path.stem: yaml.safe_load(path.read_text())["groups"] for path in RULES}
    assert shipped == [*files["everywhere"], *files["pdp"], *files["ledger"]], "no injector, no rules of one"
    assert json.loads(objects.one("ConfigMap", "exequatur-dashboard")["data"]["exequatur.json"]) == DASHBOARD


def test_an_alert_leads_to_the_page_where_the_values_say_that_it_is():
    scheduled: Path = next(path for path in VALUES if path.stem == "scheduled")
    base = yaml.safe_load(scheduled.read_text())["monitoring"]["rules"]["runbookUrl"]
    groups = [group for item in rendered(scheduled).of("PrometheusRule") for group in item["spec"]["groups"]]
    found = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert found == {rule["alert"]: f"{base}#{rule['alert'].lower()}" for rule in ALERTS}
    watched: Path = next(path for path in VALUES if path.stem == "watched")
    dashboard = rendered(watched, scheduled).one("ConfigMap", "exequatur-dashboard")["data"]["exequatur.json"]
    assert [link["url"] for link in json.loads(dashboard)["links"]] == [f"{base}#runbooks"]


def test_whoever_is_scraped_has_the_job_that_the_rules_know():
    watched: Path = next(path for path in VALUES if path.stem == "watched")
    injected: Path = next(path for path in VALUES if path.stem == "one-machine-injected")
    objects = rendered(injected, watched)
    jobs = {}
    for monitor in objects.of("ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        (rule,) = endpoint["relabelings"]
        jobs[monitor["metadata"]["name"]] = rule["replacement"]
        chosen = monitor["spec"]["selector"]["matchLabels"].items()
        services = [s for s in objects.of("Service") if chosen <= s["metadata"]["labels"].items()]
        assert any(port["name"] == endpoint["port"] for service in services for port in service["spec"]["ports"])
    asked = {job for rule in ALERTS for job in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert set(jobs.values()) == asked == {"exequatur-pdp", "exequatur-ledger", "exequatur-injector"}
    (sidecars,) = objects.of("PodMonitor")
    assert sidecars["spec"]["selector"]["matchLabels"] == {"exequatur.dev/injected": "true"}
