"""Dashboard and alerts ask for numbers that the server exports, and promtool reads the rules."""

import json
import re

import pytest
import yaml

from server.errors import MESSAGES
from server.telemetry.engine import PASSED
from server.telemetry.instruments import INSTRUMENTS
from tests.helm import scenarios
from tests.helm.helm_kit import CHART, find
from tests.promtool import promtool

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
ALERTS = CHART / "files" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ASKED = [*QUERIES, *(rule["expr"] for rule in RULES)]
FROM_PROMETHEUS = {"namespace", "le"}


def exported() -> dict[str, set[str]]:
    """Return sample name -> its labels, as the server writes them."""
    found = {}
    for one in (*INSTRUMENTS, *PASSED.values()):
        labels = {one.label(name) for name in one.attributes}
        suffixes = {
            "counter": ["_total"],
            "gauge": [""],
            "histogram": ["_bucket", "_sum", "_count"],
        }
        for suffix in suffixes[one.kind]:
            found[f"{one.family}{suffix}"] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def names_in(query: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', "", query)
    return set(re.findall(r"\b(?:tacit_|gen_ai_server_|http_server_|vllm:)[a-z0-9_]+", bare)) - {
        label for labels in exported().values() for label in labels
    }


@pytest.mark.parametrize("query", ASKED)
def test_every_query_names_exported_samples_and_their_labels(query):
    samples = exported()
    asked = names_in(query)
    assert asked
    assert asked <= set(samples)
    labels = set(re.findall(r"[{,]\s*([a-z_]+)\s*[=!]~?", query))
    grouped = re.findall(r"\bby \(([^)]*)\)", query)
    labels |= {name.strip() for group in grouped for name in group.split(",")}
    known = set.union(*(samples[name] for name in asked)) | FROM_PROMETHEUS
    assert labels <= known


@pytest.mark.parametrize("query", ASKED)
def test_every_code_in_a_query_exists(query):
    for wanted in re.findall(r'error_type=~?"([^"]+)"', query):
        assert set(wanted.split("|")) <= set(MESSAGES)


def test_the_check_of_names_notices_a_name_that_nobody_exports():
    assert names_in('rate(tacit_reqests_total{namespace="a"}[5m])') == {"tacit_reqests_total"}
    assert "tacit_reqests_total" not in exported()


def test_every_gauge_and_counter_of_ours_is_on_the_dashboard():
    shown = set().union(*(names_in(query) for query in QUERIES))
    ours = {name for name in exported() if not name.endswith(("_sum", "_count"))}
    assert {name for name in ours - shown if not name.startswith("vllm:")} == set()


def test_the_dashboard_is_one_that_grafana_can_lay_out():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        cells = {(box["x"] + i, box["y"] + j) for i in range(box["w"]) for j in range(box["h"])}
        assert not cells & taken
        taken |= cells
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps([QUERIES, PANELS])))
    assert used <= variables | {"__rate_interval"} | {"_"}
    assert all(panel["title"] for panel in PANELS)


def test_promtool_accepts_the_rules():
    status, said = promtool("check", "rules", ALERTS)
    assert status == 0, said


def test_rules_fire_when_they_should_and_not_otherwise(tmp_path):
    fail = (
        'tacit_requests_total{namespace="a",http_response_status_code="500",error_type="internal"}'
    )
    good = 'tacit_requests_total{namespace="a",http_response_status_code="200"}'
    name = "TacitFailing"
    rule = next(one for one in RULES if one["alert"] == name)
    fired = {"exp_labels": {"severity": "critical", "namespace": "a"}}
    fired["exp_annotations"] = rule["annotations"]
    cases = [(10, [fired]), (1, [])]
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": fail, "values": f"0+{failures}x30"},
                {"series": good, "values": "0+90x30"},
            ],
            "alert_rule_test": [{"eval_time": "25m", "alertname": name, "exp_alerts": alerts}],
        }
        for failures, alerts in cases
    ]
    first = next(rule for rule in RULES if rule["alert"] == "TacitAuditUnavailable")
    lost = 'tacit_requests_total{namespace="a",error_type="audit-unavailable"}'
    heard = {"exp_labels": fired["exp_labels"], "exp_annotations": first["annotations"]}
    tests.append(
        {
            "interval": "1m",
            "input_series": [{"series": lost, "values": "_x10 1x20"}],
            "alert_rule_test": [
                {"eval_time": "9m", "alertname": first["alert"], "exp_alerts": []},
                {"eval_time": "12m", "alertname": first["alert"], "exp_alerts": [heard]},
                {"eval_time": "25m", "alertname": first["alert"], "exp_alerts": []},
            ],
        }
    )
    now = next(rule for rule in RULES if rule["alert"] == "TacitCertificateEnds")
    tests.append(
        {
            "interval": "1m",
            "input_series": [
                {
                    "series": 'tacit_certificate_expiry_seconds{namespace="a"}',
                    "values": "1209000x5",
                },
                {
                    "series": 'tacit_certificate_expiry_seconds{namespace="b"}',
                    "values": "7776000x5",
                },
            ],
            "alert_rule_test": [
                {
                    "eval_time": "5m",
                    "alertname": now["alert"],
                    "exp_alerts": [
                        {
                            "exp_labels": {"severity": "warning", "namespace": "a"},
                            "exp_annotations": now["annotations"],
                        }
                    ],
                }
            ],
        }
    )
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    status, said = promtool("test", "rules", file)
    assert status == 0, said


def test_what_is_rendered_is_what_was_checked():
    documents = list(scenarios.documents("nodecvm-monitored"))
    rules = find(documents, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load(ALERTS.read_text())
    board = find(documents, "ConfigMap", "tacit-dashboard")
    assert json.loads(board["data"]["tacit.json"]) == DASHBOARD
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_a_scraper_finds_the_operator_port_and_no_other():
    documents = list(scenarios.documents("nodecvm-monitored"))
    monitor = find(documents, "ServiceMonitor")["spec"]
    service = find(documents, "Service", "tacit-server-operator")
    wanted = monitor["selector"]["matchLabels"]
    (endpoint,) = monitor["endpoints"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    ports = [
        (d["metadata"]["name"], port["name"])
        for d in documents
        if d["kind"] == "Service" and wanted.items() <= d["metadata"]["labels"].items()
        for port in d["spec"]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert ports == [("tacit-server-operator", "operator")]
    container = find(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "operator", "containerPort": 9443, "protocol": "TCP"} in container["ports"]


def test_nothing_of_it_is_there_unless_it_is_asked_for():
    documents = list(scenarios.documents("nodecvm"))
    assert not {d["kind"] for d in documents} & {"ServiceMonitor", "PrometheusRule"}
    names = {d["metadata"]["name"] for d in documents}
    assert not names & {"tacit-server-operator", "tacit-dashboard"}
