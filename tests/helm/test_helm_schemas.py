"""Every object of every scenario is valid for every supported Kubernetes, field by field."""

import copy

import pytest

from tests.helm import scenarios
from tests.helm.helm_kit import find
from tests.helm.kube_schemas import VERSIONS, complaint


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version):
    found = {
        (name, problem)
        for name in scenarios.ALL
        for document in scenarios.documents(name)
        if (problem := complaint(document, version=version))
    }
    assert not found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_is_noticed(version):
    deployment = copy.deepcopy(find(scenarios.documents("nodecvm"), "Deployment"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    assert "readynessProbe" in complaint(deployment, version=version)


def test_a_misspelt_field_of_a_route_is_noticed():
    route = copy.deepcopy(find(scenarios.documents("nodecvm-route"), "TLSRoute"))
    assert complaint(route, version="1.37") is None
    route["spec"]["hostname"] = route["spec"].pop("hostnames")
    assert "hostname" in complaint(route, version="1.37")
