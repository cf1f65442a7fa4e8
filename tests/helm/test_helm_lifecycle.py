"""Real helm installs, upgrades, rolls back, tests and removes a release on a strict API server."""

import pytest
import yaml

from tests.helm import scenarios
from tests.helm.fake_apiserver import serving
from tests.helm.helm_kit import (
    CHART,
    HELMS,
    NAMESPACE,
    merged,
    rendered,
    run,
    with_config,
    write_yaml,
)


class Cluster:
    """One empty cluster and the helm that is used on it."""

    def __init__(self, url, store, directory):
        self.store = store
        self.directory = directory
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "none"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def helm(self, version, *words, values=None, release="tacit", check=True):
        """Run one helm command against this cluster."""
        words = [words[0], release, *words[1:]]
        words += ["--namespace", NAMESPACE, "--kubeconfig", self.kubeconfig]
        if values is not None:
            file = self.directory / "values.yaml"
            file.write_text(write_yaml(values))
            words += ["--values", file]
        return run(version, *words, check=check)

    def named(self, kind):
        """Return the names of one kind."""
        return {name for found, name in self.store.names() if found == kind}


@pytest.fixture
def cluster(tmp_path):
    with serving("1.33") as (url, store):
        yield Cluster(url, store, tmp_path)


def _wait(version):
    # helm 3's own poller wants addresses of Services and pods, which no node gives here
    return ("--wait",) if version == "helm4" else ()


def _objects(values, version):
    return {
        (d["kind"], d["metadata"]["name"])
        for d in rendered(values, version=version)
        if "helm.sh/hook" not in d["metadata"].get("annotations", {})
    }


@pytest.mark.parametrize("version", HELMS)
def test_a_release_lives_and_ends(cluster, version):
    first = scenarios.values("simulated-verified")
    second = with_config(first, "server", {"limits/drain_seconds": 60})
    second = merged(second, {"server": {"autoscaling": {"enabled": True}}})

    cluster.helm(version, "install", CHART, *_wait(version), values=first)
    assert cluster.store.names() == _objects(first, version)

    cluster.helm(version, "upgrade", CHART, *_wait(version), values=second)
    assert cluster.store.names() == _objects(second, version)

    cluster.helm(version, "test")
    assert "tacit-verify" in cluster.named("Pod")

    cluster.helm(version, "rollback", "1")
    assert cluster.store.names() - {("Pod", "tacit-verify")} == _objects(first, version)

    cluster.helm(version, "uninstall")
    assert cluster.store.names() - {("Pod", "tacit-verify")} == {
        ("PersistentVolumeClaim", "tacit-broker")
    }


@pytest.mark.parametrize("name", ["nodecvm-route", "kata-autoscaled", "external", "broker"])
def test_every_mode_installs_and_is_removed_without_a_trace(cluster, name):
    cluster.helm("helm4", "install", CHART, values=scenarios.values(name))
    assert cluster.store.names() == _objects(scenarios.values(name), "helm4")
    cluster.helm("helm4", "uninstall")
    assert cluster.store.names() == set()


def test_helm_4_takes_over_a_release_of_helm_3(cluster):
    values = scenarios.values("nodecvm")
    cluster.helm("helm3", "install", CHART, values=values)
    changed = with_config(values, "server", {"limits/drain_seconds": 60})
    cluster.helm("helm4", "upgrade", CHART, values=changed)
    assert cluster.store.names() == _objects(changed, "helm4")


def test_two_releases_live_beside_each_other(cluster):
    values = scenarios.values("kata")
    cluster.helm("helm4", "install", CHART, values=values, release="one")
    cluster.helm("helm4", "install", CHART, values=values, release="two")
    cluster.helm("helm4", "uninstall", release="one")
    assert cluster.named("Deployment") == {"two-tacit-server"}


def test_the_api_server_refuses_a_field_it_does_not_know(cluster):
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dota": {}}
    values = merged(scenarios.values("external"), {"extraObjects": [wrong]})
    done = cluster.helm("helm4", "install", CHART, values=values, check=False)
    assert done.returncode != 0
    assert "dota" in done.stderr


def test_a_configuration_is_never_changed_under_a_running_pod(cluster):
    # an immutable ConfigMap cannot be changed: that the upgrade succeeds shows a new one
    values = scenarios.values("nodecvm")
    cluster.helm("helm4", "install", CHART, values=values)
    (before,) = cluster.named("ConfigMap")
    changed = with_config(values, "server", {"posture/operator": "Other GmbH"})
    cluster.helm("helm4", "upgrade", CHART, values=changed)
    (after,) = cluster.named("ConfigMap")
    assert before != after


@pytest.mark.parametrize("version", HELMS)
def test_an_upgrade_that_would_not_render_changes_nothing(cluster, version):
    values = scenarios.values("nodecvm")
    cluster.helm(version, "install", CHART, values=values)
    before = cluster.store.names()
    wrong = with_config(values, "server", {"profile": "simulated"})
    done = cluster.helm(version, "upgrade", CHART, values=wrong, check=False)
    assert "kind=profile" in done.stderr
    assert cluster.store.names() == before
