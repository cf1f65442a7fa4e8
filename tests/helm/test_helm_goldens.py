"""Every scenario renders what was reviewed; `UPDATE_GOLDENS=1` writes what to review next."""

import os
import re

import pytest
import yaml

from attestation.broker.settings import BrokerFile
from attestation.codec import parse_yaml
from server.settings import SettingsFile
from tests.helm import scenarios
from tests.helm.helm_kit import CHART, HELMS, ROOT, helm, read_all, rendered, run, scenario

GOLDEN = ROOT / "tests" / "helm" / "golden"


def _sorted(documents):
    def place(document):
        return (document["kind"], document["metadata"]["name"])

    for document in documents:
        _mask(document)
    return sorted(documents, key=place)


def _mask(value):
    """The chart's version changes with every release and is no content."""
    if isinstance(value, dict):
        value.pop("helm.sh/chart", None)
        for item in value.values():
            _mask(item)
    elif isinstance(value, list):
        for item in value:
            _mask(item)


@pytest.mark.parametrize("name", scenarios.ALL)
@pytest.mark.parametrize("version", sorted(HELMS, reverse=True))
def test_a_scenario_renders_what_was_reviewed(name, version):
    made = _sorted(rendered(scenarios.values(name), version=version))
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDENS") and version == "helm4":
        path.write_text(yaml.safe_dump_all(made, sort_keys=True, width=110))
    assert made == read_all(path.read_text())


def test_every_golden_has_its_scenario():
    helm("helm4")
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(scenarios.ALL)


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("name", sorted(p.stem for p in (CHART / "scenarios").glob("*.yaml")))
def test_a_documented_example_passes_the_strict_linter(name, version):
    run(version, "lint", "--strict", CHART, "--values", CHART / "scenarios" / f"{name}.yaml")


@pytest.mark.parametrize("name", ["simulated", "nodecvm", "kata"])
def test_the_server_of_a_documented_example_would_read_its_configuration(name):
    parse_yaml(SettingsFile, scenario(name)["server"]["config"].encode(), name=name)


@pytest.mark.parametrize("name", ["simulated", "broker"])
def test_the_broker_of_a_documented_example_would_read_its_configuration(name):
    parse_yaml(BrokerFile, scenario(name)["broker"]["config"].encode(), name=name)


def test_a_render_depends_on_nothing_but_values():
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    impure = r"\b(lookup|rand\w+|now|date|gen[A-Z]\w+|uuidv4|env|expandenv|getHostByName)\b"
    calls = "".join(re.findall(r"\{\{(?!-? */\*).*?\}\}", text))
    assert not re.findall(impure, re.sub(r'"[^"]*"', "", calls))
    assert ".Capabilities" not in calls
    assert "include" in calls


@pytest.mark.parametrize("version", HELMS)
def test_a_configuration_is_mounted_byte_for_byte(version):
    values = scenarios.values("simulated")
    data = {}
    for document in rendered(values, version=version):
        if document["kind"] == "ConfigMap":
            data |= document["data"]
    assert data["tacit.yaml"] == values["server"]["config"]
    assert data["broker.yaml"] == values["broker"]["config"]
    assert data["model-signer.pub"] == values["server"]["trustFiles"]["model-signer.pub"]
