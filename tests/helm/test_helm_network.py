"""Who may reach whom, evaluated from the rendered policies as a network plug-in would."""

import ipaddress

import pytest

from tests.helm import scenarios
from tests.helm.helm_kit import NAMESPACE

API, BROKER, ADMIN, PCCS, OPERATOR, OTLP = 8443, 8444, 8445, 8081, 9443, 4318


def pod(component, *, namespace=NAMESPACE, labels=None):
    """Return a pod of the release, or a stranger where `component` is None."""
    own = {"app.kubernetes.io/name": "tacit", "app.kubernetes.io/instance": "tacit"}
    made = labels or own | {"app.kubernetes.io/component": component}
    return {"namespace": namespace, "labels": made, "ip": None}


def address(ip):
    """Return somebody outside the cluster."""
    return {"namespace": None, "labels": {}, "ip": ip}


SERVER, BROKER_POD, VERIFY = pod("server"), pod("broker"), pod("verify")
NEIGHBOUR = pod(None, labels={"app": "client"})
ELSEWHERE = pod(None, namespace="other", labels={"app": "client"})
DNS = pod(None, namespace="kube-system", labels={"k8s-app": "kube-dns"})
KUBE_API, INTERNET = address("10.96.0.1"), address("203.0.113.9")
SCRAPER = pod(None, namespace="monitoring", labels={"app": "prometheus"})
NAMED = {API: "https", BROKER: "https", ADMIN: "admin", OPERATOR: "operator"}


def _selects(selector, labels):
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_peer(peer, other):
    if "ipBlock" in peer:
        assert set(peer["ipBlock"]) == {"cidr"}
        return bool(other["ip"]) and ipaddress.ip_address(other["ip"]) in ipaddress.ip_network(
            peer["ipBlock"]["cidr"]
        )
    if other["namespace"] is None:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other["namespace"]}
        if not _selects(peer["namespaceSelector"], labels):
            return False
    elif other["namespace"] != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), other["labels"])


def _passes(policies, subject, other, *, direction, port, protocol):
    """Evaluate one direction for `subject`; without a policy that selects it, all passes."""
    if subject["namespace"] != NAMESPACE:
        return True
    selected = [p for p in policies if _selects(p["podSelector"], subject["labels"])]
    selected = [p for p in selected if direction.capitalize() in p["policyTypes"]]
    if not selected:
        return True
    side = "from" if direction == "ingress" else "to"
    for policy in selected:
        for rule in policy.get(direction, ()):
            assert rule[side], "a rule without peers lets everybody through"
            assert rule["ports"], "a rule without ports lets everything through"
            ports = {(p["port"], p.get("protocol", "TCP")) for p in rule["ports"]}
            hit = {(port, protocol), (NAMED.get(port), protocol)} & ports
            if hit and any(_is_peer(peer, other) for peer in rule[side]):
                return True
    return False


def reaches(name, source, target, *, port, protocol="TCP"):
    """Tell whether `source` may open a connection to `target` in a scenario."""
    policies = [d["spec"] for d in scenarios.documents(name) if d["kind"] == "NetworkPolicy"]
    assert policies
    flow = {"port": port, "protocol": protocol}
    leaves = _passes(policies, source, target, direction="egress", **flow)
    return leaves and _passes(policies, target, source, direction="ingress", **flow)


@pytest.mark.parametrize(
    ("name", "source", "target", "port", "allowed"),
    [
        ("simulated", NEIGHBOUR, SERVER, API, True),
        ("simulated", ELSEWHERE, SERVER, API, False),
        ("simulated", INTERNET, SERVER, API, False),
        ("simulated", NEIGHBOUR, SERVER, 9090, False),
        ("simulated", SERVER, BROKER_POD, BROKER, True),
        ("simulated", SERVER, BROKER_POD, 22, False),
        ("simulated", NEIGHBOUR, BROKER_POD, BROKER, False),
        ("simulated", BROKER_POD, SERVER, API, False),
        ("simulated", SERVER, INTERNET, 443, False),
        ("simulated", SERVER, KUBE_API, 443, False),
        ("simulated", SERVER, SERVER, API, False),
        ("simulated", BROKER_POD, INTERNET, 443, False),
        ("simulated", SERVER, ELSEWHERE, 443, False),
        ("simulated-verified", VERIFY, SERVER, API, True),
        ("simulated-verified", VERIFY, BROKER_POD, BROKER, False),
        ("simulated-verified", VERIFY, INTERNET, 443, False),
        ("simulated-verified", NEIGHBOUR, VERIFY, API, False),
        ("nodecvm", address("10.1.2.3"), SERVER, API, True),
        ("nodecvm", address("11.1.2.3"), SERVER, API, False),
        ("nodecvm", NEIGHBOUR, SERVER, API, False),
        ("nodecvm", SERVER, address("192.0.2.10"), BROKER, True),
        ("nodecvm", SERVER, address("192.0.2.10"), 443, False),
        ("nodecvm", SERVER, address("192.0.2.11"), BROKER, False),
        ("nodecvm-verified", VERIFY, SERVER, API, True),
        ("kata", SERVER, address("192.0.2.10"), BROKER, True),
        ("kata", SERVER, INTERNET, 443, False),
        ("broker", address("198.51.100.7"), BROKER_POD, BROKER, True),
        ("broker", address("198.51.101.7"), BROKER_POD, BROKER, False),
        ("broker", NEIGHBOUR, BROKER_POD, BROKER, False),
        ("broker", address("192.0.2.40"), BROKER_POD, ADMIN, True),
        ("broker", address("192.0.2.40"), BROKER_POD, BROKER, False),
        ("broker", address("198.51.100.7"), BROKER_POD, ADMIN, False),
        ("broker", BROKER_POD, address("192.0.2.30"), 5432, True),
        ("broker", BROKER_POD, address("192.0.2.31"), 8200, True),
        ("broker", BROKER_POD, address("192.0.2.31"), 5432, False),
        ("nodecvm-pccs", SERVER, address("192.0.2.50"), PCCS, True),
        ("nodecvm-pccs", SERVER, address("192.0.2.50"), 443, False),
        ("nodecvm-pccs", SERVER, INTERNET, PCCS, False),
        ("nodecvm", SERVER, address("192.0.2.50"), PCCS, False),
        ("kata-pccs", SERVER, address("192.0.2.50"), PCCS, True),
        ("broker-pccs", BROKER_POD, address("192.0.2.50"), PCCS, True),
        ("broker-pccs", BROKER_POD, address("192.0.2.30"), PCCS, False),
        ("nodecvm-monitored", SCRAPER, SERVER, OPERATOR, True),
        ("nodecvm-monitored", SCRAPER, SERVER, API, False),
        ("nodecvm-monitored", address("10.1.2.3"), SERVER, OPERATOR, False),
        ("nodecvm-monitored", NEIGHBOUR, SERVER, OPERATOR, False),
        ("nodecvm-monitored", SERVER, address("192.0.2.60"), OTLP, True),
        ("nodecvm-monitored", SERVER, INTERNET, OTLP, False),
        ("nodecvm", SERVER, address("192.0.2.60"), OTLP, False),
        ("external-ipv6", VERIFY, address("2001:db8::21"), API, True),
        ("external-ipv6", VERIFY, address("2001:db8::22"), API, False),
    ],
)
def test_a_flow_is_as_documented(name, source, target, port, allowed):
    assert reaches(name, source, target, port=port) is allowed


@pytest.mark.parametrize("source", [SERVER, BROKER_POD])
@pytest.mark.parametrize(("protocol", "port"), [("UDP", 53), ("TCP", 53)])
def test_names_are_resolved_by_the_cluster_s_own_resolver_only(source, protocol, port):
    assert reaches("simulated", source, DNS, port=port, protocol=protocol)
    assert not reaches("simulated", source, INTERNET, port=port, protocol=protocol)
    assert not reaches("simulated", source, NEIGHBOUR, port=port, protocol=protocol)


def test_without_a_resolver_no_name_is_asked_for():
    assert not reaches("nodecvm-no-dns", SERVER, DNS, port=53, protocol="UDP")


def test_a_pod_of_the_release_that_no_flow_names_is_silent():
    other = pod("surprise")
    assert not reaches("simulated", other, INTERNET, port=443)
    assert not reaches("simulated", NEIGHBOUR, other, port=443)
