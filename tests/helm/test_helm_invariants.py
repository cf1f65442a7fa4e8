"""What holds in every render, whatever the values: pinned, unprivileged, without a secret."""

import re

import pytest

from server import boot
from server.engine.launch import SHUTDOWN_SECONDS
from tests.helm import scenarios
from tests.helm.helm_kit import HELMS, containers, find, merged, pods, rendered, with_config
from tests.helm.test_helm_monitoring import exported

EVERY = pytest.mark.parametrize("name", scenarios.ALL)
NEEDED = ["SYS_ADMIN", "NET_ADMIN", "SETPCAP"]


def _on_hardware(name):
    return scenarios.values(name)["tee"]["mode"] in ("nodeCvm", "kata")


def _every_pod(name):
    return pods(list(scenarios.documents(name)))


def _every_container(name):
    return [container for spec in _every_pod(name) for container in containers(spec)]


@EVERY
def test_images_are_pinned_wherever_something_is_protected(name):
    for container in _every_container(name):
        if scenarios.values(name)["tee"]["mode"] != "simulated":
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"])
        assert not container["image"].endswith(":latest")


@EVERY
def test_no_secret_is_made_and_none_is_in_the_environment(name):
    assert not [d for d in scenarios.documents(name) if d["kind"] == "Secret"]
    for container in _every_container(name):
        assert "env" not in container
        assert "envFrom" not in container


@EVERY
def test_nothing_is_privileged_and_no_token_is_mounted(name):
    for spec in _every_pod(name):
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            assert field not in spec
        if "runtimeClassName" not in spec:
            assert spec["automountServiceAccountToken"] is False
            assert spec["enableServiceLinks"] is False
        for container in containers(spec):
            context = container["securityContext"]
            assert "privileged" not in context
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert container["terminationMessagePolicy"] == "File"
    for account in (d for d in scenarios.documents(name) if d["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not [d for d in scenarios.documents(name) if "Role" in d["kind"]]


@EVERY
def test_pods_are_restricted_but_for_a_server_on_hardware(name):
    for spec in _every_pod(name):
        server = spec["containers"][0]["name"] == "server"
        if server and _on_hardware(name):
            assert spec["containers"][0]["securityContext"]["capabilities"]["add"] == NEEDED
            continue
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        assert {next(iter(v.keys() - {"name"})) for v in spec["volumes"]} <= allowed
        for container in containers(spec):
            assert "add" not in container["securityContext"]["capabilities"]


@EVERY
def test_whatever_can_be_written_is_in_memory_or_the_guest_s_own(name):
    for spec in _every_pod(name):
        for volume in spec["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["medium"] == "Memory"
                assert volume["emptyDir"]["sizeLimit"]
        kinds = {v["name"]: next(iter(v.keys() - {"name"})) for v in spec["volumes"]}
        for container in containers(spec):
            written = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
            disks = {n for n in written if kinds[n] == "persistentVolumeClaim"}
            assert disks <= {"store"}


@EVERY
def test_requests_are_limits(name):
    for container in _every_container(name):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"])


@EVERY
def test_every_port_has_a_name_and_a_protocol(name):
    ports = [p for c in _every_container(name) for p in c.get("ports", ())]
    ports += [
        p for d in scenarios.documents(name) if d["kind"] == "Service" for p in d["spec"]["ports"]
    ]
    assert all(port["name"] and port["protocol"] == "TCP" for port in ports)


@EVERY
def test_a_selector_selects_its_own_pods_and_never_changes(name):
    for document in scenarios.documents(name):
        if document["kind"] == "Deployment":
            wanted = document["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= document["spec"]["template"]["metadata"]["labels"].items()
            assert not {"helm.sh/chart", "app.kubernetes.io/version", "tee"} & set(wanted)
        if document["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = find(list(scenarios.documents(name)), "Deployment", "tacit-server")
            assert "replicas" not in target["spec"]


@pytest.mark.parametrize("name", ["nodecvm-verified", "kata-autoscaled", "broker"])
@pytest.mark.parametrize("version", HELMS)
def test_names_fit_with_the_longest_release_name(version, name):
    for document in rendered(scenarios.values(name), version=version, release="r" * 53):
        assert len(document["metadata"]["name"]) <= 63
        assert all(len(str(v)) <= 63 for v in document["metadata"]["labels"].values())


@pytest.mark.parametrize("drain", [1, 30, 3600])
def test_the_grace_period_covers_drain_and_engine(drain):
    values = with_config(
        scenarios.values("nodecvm-two-models"), "server", {"limits/drain_seconds": drain}
    )
    spec = find(rendered(values), "Deployment")["spec"]["template"]["spec"]
    engines = 2 * (SHUTDOWN_SECONDS + boot._EXIT_SECONDS)
    assert spec["terminationGracePeriodSeconds"] > 10 + 1 + drain + engines


@pytest.mark.parametrize("seconds", [30, 600, 7200])
def test_the_startup_probe_waits_for_broker_and_engines(seconds):
    changes = {"models/qwen3-32b/engine/start_seconds": seconds, "broker/retry_seconds": 3600}
    values = with_config(scenarios.values("nodecvm"), "server", changes)
    deployment = find(rendered(values), "Deployment")
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= seconds + 3600
    assert deployment["spec"]["progressDeadlineSeconds"] > seconds + 3600


def test_a_changed_configuration_gets_a_new_name_and_new_pods():
    before = scenarios.values("nodecvm")
    after = with_config(before, "server", {"limits/drain_seconds": 60})
    names = {find(rendered(v), "ConfigMap")["metadata"]["name"] for v in (before, after)}
    assert len(names) == 2
    swapped = merged(before, {"server": {"trustFiles": {"broker.crt": "another\n"}}})
    assert find(rendered(swapped), "ConfigMap")["metadata"]["name"] not in names


def test_two_servers_never_share_a_tdx_node():
    spec = find(list(scenarios.documents("nodecvm-scheduled")), "Deployment")["spec"]
    affinity = spec["template"]["spec"]["affinity"]
    (term,) = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["namespaceSelector"] == {}
    assert "nodeAffinity" in affinity
    assert spec["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_broker_s_store_outlives_the_release():
    claim = find(list(scenarios.documents("simulated")), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    deployment = find(list(scenarios.documents("simulated")), "Deployment", "tacit-broker")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_a_mirror_replaces_the_registry_of_every_image():
    for container in _every_container("airgap"):
        assert container["image"].startswith("mirror.internal:5000/tacit/tacit/")
    assert all(spec["imagePullSecrets"] == [{"name": "mirror"}] for spec in _every_pod("airgap"))


def test_what_replicas_are_scaled_by_is_a_number_that_servers_export():
    scaled = find(list(scenarios.documents("kata-keda")), "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    (metric,) = re.findall(r"tacit_\w+", trigger["metadata"]["query"])
    assert metric in exported()
    kinds = {d["kind"] for d in scenarios.documents("kata-keda")}
    assert "HorizontalPodAutoscaler" not in kinds
