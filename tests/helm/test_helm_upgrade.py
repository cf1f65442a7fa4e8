"""From the last released chart to this one, with the same values: what changes is told."""

import tarfile

import pytest
import yaml

from tests.helm import scenarios
from tests.helm.helm_kit import CHART, ROOT, rendered
from tests.helm.test_helm_lifecycle import cluster

__all__ = ["cluster"]  # a fixture

(RELEASED,) = (ROOT / "tests" / "helm" / "released").glob("tacit-*.tgz")
README = (CHART / "README.md").read_text()


def differences(before, after, path=""):
    """Return the paths at which two values differ; lists are compared whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            here = f"{path}/{key}".lstrip("/")
            if before.get(key) != after.get(key):
                yield from differences(before.get(key), after.get(key), here)
    else:
        yield path


def changed(name):
    """Return (kind, path) of everything that the new chart renders differently."""
    values = scenarios.values(name)
    then, now = (
        {(d["kind"], d["metadata"]["name"]): d for d in rendered(values, chart=chart)}
        for chart in (RELEASED, CHART)
    )
    assert then.keys() == now.keys()
    found = {
        (kind, path) for kind, of in then for path in differences(then[kind, of], now[kind, of])
    }
    return found - {(kind, "metadata/labels/helm.sh/chart") for kind, _ in found}


@pytest.mark.parametrize("name", ["nodecvm", "nodecvm-with-broker", "kata", "broker", "external"])
def test_the_same_values_change_only_what_is_told(name):
    labels = "spec/template/metadata/labels"
    dropped = ("helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")
    expected = {("Deployment", f"{labels}/{label}") for label in dropped}
    if name == "kata":
        expected.add(("Deployment", "spec/template/spec/containers"))
    assert changed(name) <= expected
    told = README.partition("### Upgrades of the chart")[2]
    assert all(f"`{word}`" in told for word in (*dropped, "seccompProfile"))


@pytest.mark.parametrize(("name", "version"), [("nodecvm", "helm3"), ("broker", "helm4")])
def test_a_released_chart_is_upgraded_and_rolled_back(cluster, name, version):
    values = scenarios.values(name)
    cluster.helm(version, "install", RELEASED, values=values)
    before = cluster.store.names()
    cluster.helm(version, "upgrade", CHART, values=values)
    assert cluster.store.names() == before
    cluster.helm(version, "rollback", "1")
    assert cluster.store.names() == before


def test_another_version_of_the_chart_alone_replaces_no_pod():
    values = scenarios.values("nodecvm-with-broker")
    for document in rendered(values):
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


def test_the_chart_has_a_version_of_its_own():
    with tarfile.open(RELEASED) as archive:
        released = yaml.safe_load(archive.extractfile("tacit/Chart.yaml"))
    now = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert _ordered(now["version"]) > _ordered(released["version"])


def _ordered(version):
    return tuple(int(part) for part in version.split("."))
