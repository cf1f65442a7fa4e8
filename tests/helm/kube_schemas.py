"""Strict schemas of Kubernetes and of foreign kinds: what an API server would refuse."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shared_data import SHARED

VERSIONS = tuple(f"1.{minor}" for minor in range(31, 38))
_CRDS = {
    "PrometheusRule": "prometheusrule.yaml",
    "ServiceMonitor": "servicemonitor.yaml",
    "TLSRoute": "tlsroute.yaml",
}


@functools.cache
def _folder(version: str) -> Path:
    package = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    schemas = Path(package.__file__).parent / "kubernetes-json-schema"
    return schemas / f"v{version}.0-local-strict"


def _local(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text.replace("/api/_definitions.json#/$defs/", "#/$defs/"))
    return loaded


@functools.cache
def _definitions(version: str) -> dict[str, Any]:
    found: dict[str, Any] = _local((_folder(version) / "_definitions.json").read_text())["$defs"]
    return found


@functools.cache
def _builtin(version: str, api: str, kind: str) -> Any:
    group, _, release = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], release)))
    path = _folder(version) / f"{name}.json"
    if not path.exists():
        return None
    schema = _local(path.read_text())
    schema.pop("$id", None)
    schema["$defs"] = _definitions(version)
    return pytest.importorskip("jsonschema_rs").Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    """Make a CRD's schema refuse fields it does not name, as an API server's strict mode does."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {
        key: _closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key != "description"
    }
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in out and "additionalProperties" not in out and not open_ended:
        out["additionalProperties"] = False
    return out


_SCALED = {
    "scaleTargetRef": {
        "type": "object",
        "required": ["name"],
        "additionalProperties": {"type": "string"},
    },
    "minReplicaCount": {"type": "integer", "minimum": 1},
    "maxReplicaCount": {"type": "integer", "minimum": 1},
    "pollingInterval": {"type": "integer"},
    "advanced": {"type": "object"},
    "triggers": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "metadata"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": "prometheus"},
                "metricType": {"enum": ["AverageValue", "Value"]},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
    },
}
"""What we render of KEDA's ScaledObject (keda.sh/v1alpha1), as its documentation has it."""


@functools.cache
def _scaled_object() -> Any:
    top = {"apiVersion": {"const": "keda.sh/v1alpha1"}, "kind": {}, "metadata": {"type": "object"}}
    required = ["scaleTargetRef", "triggers"]
    spec = {"type": "object", "required": required, "additionalProperties": False}
    schema = {"type": "object", "additionalProperties": False, "required": [*top, "spec"]}
    schema["properties"] = top | {"spec": spec | {"properties": _SCALED}}
    return pytest.importorskip("jsonschema_rs").Draft202012Validator(schema)


@functools.cache
def _foreign(kind: str, api: str) -> Any:
    path = SHARED / "crds" / _CRDS[kind]
    if not path.exists():
        pytest.skip("CustomResourceDefinitions (../shared/crds) are not on this machine")
    crd = next(d for d in yaml.safe_load_all(path.read_text()) if d)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == api.partition("/")[2])
    assert version["served"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return pytest.importorskip("jsonschema_rs").Draft202012Validator(schema)


def complaint(document: dict[str, Any], *, version: str) -> str | None:
    """Return why an API server of `version` would refuse `document`, or None."""
    kind, api = document["kind"], document["apiVersion"]
    if kind == "ScaledObject":
        validator = _scaled_object()
    else:
        validator = _foreign(kind, api) if kind in _CRDS else _builtin(version, api, kind)
    if validator is None:
        return f"{api} {kind} is unknown to Kubernetes {version}"
    error = next(validator.iter_errors(document), None)
    return None if error is None else f"{kind} {list(error.instance_path)}: {error.message}"[:400]
