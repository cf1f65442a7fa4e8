"""In mode kata the workload holds only what genpolicy can turn into an agent policy.

The sets are those of genpolicy of Kata Containers 4.1; read them again at each Kata release.
"""

import copy

import pytest

from tests.helm import scenarios
from tests.helm.helm_kit import containers, find

KATA = [name for name in scenarios.ALL if name.startswith("kata")]
POD = {
    *("nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "priorityClassName"),
    *("schedulerName", "terminationGracePeriodSeconds", "imagePullSecrets", "serviceAccountName"),
    *("dnsConfig", "dnsPolicy", "hostname", "shareProcessNamespace", "resources"),
    *("securityContext", "runtimeClassName", "containers", "initContainers", "volumes"),
    "restartPolicy",
}
POD_SECURITY = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "sysctls"}
CONTAINER_SECURITY = {
    *("readOnlyRootFilesystem", "allowPrivilegeEscalation", "privileged", "capabilities"),
    *("runAsUser", "runAsGroup", "seccompProfile"),
}
VOLUMES = {
    "emptyDir": {"medium", "sizeLimit"},
    "secret": {"secretName"},
    "configMap": {"name"},
    "hostPath": {"path"},
    "persistentVolumeClaim": {"claimName"},
}
ANNOTATIONS = {"io.katacontainers.config.hypervisor.cc_init_data"}


def refusals(deployment):
    """Return what genpolicy would not understand, or would have to guess."""
    template = deployment["spec"]["template"]
    spec = template["spec"]
    found = {f"pod.{field}" for field in spec.keys() - POD}
    found |= {f"pod.security.{f}" for f in spec["securityContext"].keys() - POD_SECURITY}
    if not {"runAsUser", "runAsGroup", "fsGroup"} <= spec["securityContext"].keys():
        found.add("pod.security.users")
    for volume in spec["volumes"]:
        (kind,) = volume.keys() - {"name"}
        found |= {f"volume.{kind}.{f}" for f in volume[kind].keys() - VOLUMES.get(kind, set())}
    for container in containers(spec):
        security = container["securityContext"]
        found |= {f"container.security.{f}" for f in security.keys() - CONTAINER_SECURITY}
        found |= {"container.image" for _ in [0] if "@sha256:" not in container["image"]}
        found |= {"mount.subPath" for m in container["volumeMounts"] if "subPath" in m}
        hooks = container.get("lifecycle", {}).values()
        found |= {f"lifecycle.{f}" for hook in hooks for f in hook.keys() - {"exec"}}
    kata = {a for a in template["metadata"]["annotations"] if a.startswith("io.katacontainers")}
    return found | {f"annotation.{a}" for a in kata - ANNOTATIONS}


@pytest.mark.parametrize("name", KATA)
def test_genpolicy_understands_every_field(name):
    assert refusals(find(list(scenarios.documents(name)), "Deployment")) == set()


@pytest.mark.parametrize("name", KATA)
def test_init_data_passes_through_unchanged(name):
    deployment = find(list(scenarios.documents(name)), "Deployment")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    given = scenarios.values(name)["tee"]["kata"]["initData"]
    assert annotations == {"io.katacontainers.config.hypervisor.cc_init_data": given}


@pytest.mark.parametrize("name", KATA)
def test_limits_size_the_vm_and_no_weights_are_copied_into_it(name):
    spec = find(list(scenarios.documents(name)), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["memory"]
    assert not [m for m in container["volumeMounts"] if m["mountPath"].startswith("/srv")]


def test_the_render_for_an_ordinary_cluster_would_be_refused():
    deployment = find(list(scenarios.documents("nodecvm")), "Deployment")
    changed = copy.deepcopy(deployment)
    changed["spec"]["template"]["metadata"]["annotations"] = {
        "io.katacontainers.config.hypervisor.kernel_params": "debug"
    }
    expected = {
        "pod.automountServiceAccountToken",
        "pod.enableServiceLinks",
        "pod.security.fsGroupChangePolicy",
        "pod.security.seccompProfile",
        "container.security.appArmorProfile",
        "lifecycle.sleep",
        "volume.hostPath.type",
        "annotation.io.katacontainers.config.hypervisor.kernel_params",
    }
    assert refusals(changed) == expected
