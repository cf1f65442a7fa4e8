"""Values that would weaken or break a deployment do not render, and the message says why."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.helm.helm_kit import CHART, merged, scenario, template, with_config

CASES = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text())
GUARDS = "".join(path.read_text() for path in (CHART / "templates").glob("_guards*.tpl"))
KINDS = set(re.findall(r"VALIDATION_ERROR kind=(\w+):", GUARDS))


def _dropped(values, dotted):
    parts = dotted.split(".", 2)
    *parents, last = parts
    out = merged(values, {})
    place = out
    for parent in parents:
        place = place[parent]
    del place[last]
    return out


def _values(case):
    made = {} if case["base"] == "none" else scenario(case["base"])
    if "also" in case:
        made = merged(scenario(case["also"]), made)
    for part, changes in case.get("config", {}).items():
        made = with_config(made, part, changes)
    for dotted in case.get("drop", ()):
        made = _dropped(made, dotted)
    return merged(made, case.get("values", {}))


def _title(case):
    words = {key: value for key, value in case.items() if key != "base"}
    return f"{case['base']}-{json.dumps(words)[:90]}"


@pytest.mark.parametrize("case", CASES, ids=_title)
def test_values_are_refused_with_a_reason(case):
    done = template(_values(case))
    assert done.returncode != 0
    if "kind" in case:
        assert f"VALIDATION_ERROR kind={case['kind']}:" in done.stderr
    else:
        assert "don't meet the specifications of the schema" in done.stderr
        assert case["schema"] in done.stderr


SCHEMA_CASES = [case for case in CASES if "schema" in case]


@pytest.mark.parametrize("case", SCHEMA_CASES, ids=_title)
def test_helm_3_reads_the_schema_alike(case):
    done = template(_values(case), version="helm3")
    assert done.returncode != 0
    assert "don't meet the specifications of the schema" in done.stderr


def test_every_guard_has_a_case():
    assert {case["kind"] for case in CASES if "kind" in case} == KINDS


def test_every_message_says_what_to_do():
    for message in re.findall(r'VALIDATION_ERROR kind=\w+: ([^"]+)"', GUARDS):
        assert re.search(r"; .*[a-z]", message), message
