"""A Kubernetes API server in memory: strict schemas, immutable fields, server-side apply; no nodes.

It speaks as much as helm 3 and helm 4 need. What is applied becomes ready at once: it proves that
objects are accepted, changed and removed in order, and nothing about pods.
"""

from __future__ import annotations

import base64
import copy
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from tests.helm.helm_kit import read_yaml
from tests.helm.kube_schemas import complaint
from tests.helm.strategic import patched

Object = dict[str, Any]

RESOURCES: dict[tuple[str, str], str] = {
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "namespaces"): "Namespace",
    ("v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("v1", "pods"): "Pod",
    ("v1", "secrets"): "Secret",
    ("v1", "serviceaccounts"): "ServiceAccount",
    ("v1", "services"): "Service",
    ("apps/v1", "deployments"): "Deployment",
    ("apps/v1", "replicasets"): "ReplicaSet",
    ("autoscaling/v2", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("discovery.k8s.io/v1", "endpointslices"): "EndpointSlice",
    ("gateway.networking.k8s.io/v1", "tlsroutes"): "TLSRoute",
    ("networking.k8s.io/v1", "networkpolicies"): "NetworkPolicy",
    ("policy/v1", "poddisruptionbudgets"): "PodDisruptionBudget",
}
IMMUTABLE = {
    "Deployment": ("spec", "selector"),
    "EndpointSlice": ("addressType",),
    "ConfigMap": ("data",),
}
"""Fields that never change; a ConfigMap's only where it says `immutable`."""

_OPENAPI_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_OPENAPI = b"\x0a\x032.0\x12\x06\x0a\x01x\x12\x011\x42\x00"
_SYNCED = "k8s.io/initial-events-end"


class Refused(Exception):
    """An answer of the API server that is not success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Store:
    """The objects, by API version, plural, namespace and name."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.objects: dict[tuple[str, str, str, str], Object] = {}
        self.lock = threading.RLock()
        self._revision = 0

    def names(self) -> set[tuple[str, str]]:
        """Return kind and name of everything but the releases helm keeps."""
        kinds = ((o["kind"], o["metadata"]["name"]) for o in self.objects.values())
        return {(kind, name) for kind, name in kinds if not name.startswith("sh.helm.release")}

    def write(self, key: tuple[str, str, str, str], new: Object, *, dry: bool) -> Object:
        """Admit one object, or raise `Refused` as the API server would."""
        kind, name = RESOURCES[key[:2]], key[3]
        problem = complaint(_spoken(new), version=self.version)
        if problem:
            raise Refused(422, "Invalid", f'{kind} "{name}" is invalid: {problem}')
        old = self.objects.get(key)
        path = IMMUTABLE.get(kind)
        fixed = old and path and (kind != "ConfigMap" or old.get("immutable"))
        if fixed and _at(old, path) != _at(new, path):
            message = f'{kind} "{name}" is invalid: {".".join(path)}: field is immutable'
            raise Refused(422, "Invalid", message)
        self._revision += 1
        made = copy.deepcopy(new)
        metadata = made["metadata"]
        metadata["uid"] = old["metadata"]["uid"] if old else str(uuid.uuid4())
        metadata["resourceVersion"] = str(self._revision)
        metadata["generation"] = 1
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        if key[2]:
            metadata.setdefault("namespace", key[2])
        _become_ready(made)
        if not dry:
            self.objects[key] = made
        return made


def _spoken(new: Object) -> Object:
    """Return what a client may have said: the server's own fields are left out."""
    said = {key: value for key, value in new.items() if key != "status"}
    own = ("managedFields", "uid", "resourceVersion", "generation", "creationTimestamp")
    said["metadata"] = {k: v for k, v in new["metadata"].items() if k not in own}
    return said


def _at(document: Object, path: tuple[str, ...]) -> Any:
    for part in path:
        document = document.get(part, {})
    return document


def _become_ready(made: Object) -> None:
    if made["kind"] == "Deployment":
        count = made["spec"].get("replicas", 1)
        fields = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        conditions = [{"type": "Available", "status": "True"}, progress]
        made["status"] = dict.fromkeys(fields, count)
        made["status"] |= {"observedGeneration": 1, "conditions": conditions}
    elif made["kind"] == "PodDisruptionBudget":
        made["status"] = {"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 0}
        made["status"] |= {"disruptionsAllowed": 1, "expectedPods": 1}
    elif made["kind"] == "PersistentVolumeClaim":
        made["status"] = {"phase": "Bound"}
    elif made["kind"] == "Pod":
        made["status"] = {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "True"}]}


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: Any) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        """Answer any method."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        url = urlparse(self.path)
        parts = [part for part in url.path.split("/") if part]
        query = {key: value[0] for key, value in parse_qs(url.query).items()}
        try:
            self._route(parts, query, body)
        except Refused as refused:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            status |= {"reason": refused.reason, "message": refused.message, "code": refused.status}
            self._answer(refused.status, status)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self, status: int, value: Object) -> None:
        self._send(status, json.dumps(value).encode(), kind="application/json")

    def _send(self, status: int, body: bytes, *, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _route(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        if parts == ["openapi", "v2"]:
            return self._send(200, _OPENAPI, kind=_OPENAPI_TYPE)
        if (
            len(parts) == (2 if parts[0] == "api" else 3)
            or len(parts) == 1
            or parts[0] == "openapi"
        ):
            return self._answer(200, self._discovery(parts))
        version, rest = (
            ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        )
        space = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            space, rest = rest[1], rest[2:]
        if (version, rest[0]) not in RESOURCES:
            raise Refused(404, "NotFound", f"no resource {version} {rest[0]}")
        name = rest[1] if len(rest) > 1 else ""
        return self._serve((version, rest[0], space, name), query, body)

    def _discovery(self, parts: list[str]) -> Object:
        if parts == ["version"]:
            major, minor = self.store.version.split(".")
            return {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0"}
        if parts[0] == "openapi":
            return {"paths": {}}
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts == ["apis"]:
            versions = sorted({version for version, _ in RESOURCES if "/" in version})
            named = [{"groupVersion": v, "version": v.partition("/")[2]} for v in versions]
            groups = [
                {
                    "name": v["groupVersion"].partition("/")[0],
                    "versions": [v],
                    "preferredVersion": v,
                }
                for v in named
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = "v1" if parts[0] == "api" else "/".join(parts[1:])
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        listed = [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "verbs": verbs}
            | {"namespaced": kind != "Namespace"}
            for (api, plural), kind in RESOURCES.items()
            if api == version
        ]
        listing = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version}
        return listing | {"resources": listed}

    def _serve(self, key: tuple[str, str, str, str], query: dict[str, str], body: bytes) -> None:
        if self.command == "GET":
            if key[3]:
                return self._answer(200, self._existing(key))
            return self._watch(key) if query.get("watch") else self._list(key, query)
        with self.store.lock:
            if self.command == "DELETE":
                self._existing(key)
                del self.store.objects[key]
                return self._answer(200, {"kind": "Status", "status": "Success"})
            sent = secret(body) if body[:4] == b"k8s\x00" else read_yaml(body)
            if self.command == "POST":
                key = (*key[:3], sent["metadata"]["name"])
                if key in self.store.objects:
                    message = f'{key[1]} "{key[3]}" already exists'
                    raise Refused(409, "AlreadyExists", message)
            elif self.command == "PATCH" and "apply-patch" not in self.headers["Content-Type"]:
                sent = patched(self._existing(key), sent)
            made = self.store.write(key, sent, dry="dryRun" in query)
            return self._answer(201 if self.command == "POST" else 200, made)

    def _existing(self, key: tuple[str, str, str, str]) -> Object:
        found = self.store.objects.get(key)
        if found is None:
            raise Refused(404, "NotFound", f'{key[1]} "{key[3]}" not found')
        return found

    def _selected(self, key: tuple[str, str, str, str]) -> list[Object]:
        with self.store.lock:
            return [
                made
                for at, made in self.store.objects.items()
                if at[:2] == key[:2] and key[2] in ("", at[2])
            ]

    def _list(self, key: tuple[str, str, str, str], query: dict[str, str]) -> None:
        pairs = (p for p in query.get("labelSelector", "").split(",") if "=" in p and "!" not in p)
        wanted = dict(p.replace("==", "=").split("=", 1) for p in pairs).items()
        found = [
            o for o in self._selected(key) if wanted <= o["metadata"].get("labels", {}).items()
        ]
        listing = {"kind": f"{RESOURCES[key[:2]]}List", "apiVersion": key[0], "items": found}
        self._answer(200, listing | {"metadata": {"resourceVersion": "1"}})

    def _watch(self, key: tuple[str, str, str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        seen: dict[str, str] = {}
        synced = False
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                for made in self._selected(key):
                    uid, revision = (made["metadata"][k] for k in ("uid", "resourceVersion"))
                    if seen.get(uid) != revision:
                        seen[uid] = revision
                        self._event("ADDED", made)
                if not synced:
                    synced = True
                    mark = {"resourceVersion": "1", "annotations": {_SYNCED: "true"}}
                    kind = RESOURCES[key[:2]]
                    self._event("BOOKMARK", {"kind": kind, "apiVersion": key[0], "metadata": mark})
                time.sleep(0.05)
        except OSError:
            return  # whoever watched has gone

    def _event(self, kind: str, made: Object) -> None:
        self.wfile.write(json.dumps({"type": kind, "object": made}).encode() + b"\n")
        self.wfile.flush()


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields of a protobuf message and skip its numbers."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 2:
            length = number()
            yield tag >> 3, data[at : at + length]
            at += length
        elif tag & 7 == 0:
            number()
        else:
            raise ValueError("a wire type that a Secret does not use")


def secret(body: bytes) -> Object:
    """Decode the one kind that helm sends as protobuf: a release, kept as a Secret."""
    metadata: Object = {"labels": {}}
    made: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {}}
    for field, value in _fields(dict(_fields(body[4:]))[2]):
        if field == 1:
            for inner, text in _fields(value):
                if inner in (1, 3):
                    metadata["name" if inner == 1 else "namespace"] = text.decode()
                elif inner == 11:
                    pair = dict(_fields(text))
                    metadata["labels"][pair[1].decode()] = pair.get(2, b"").decode()
        elif field == 2:
            pair = dict(_fields(value))
            made["data"][pair[1].decode()] = base64.b64encode(pair.get(2, b"")).decode()
        elif field == 3:
            made["type"] = value.decode()
    return made


@contextmanager
def serving(version: str) -> Iterator[tuple[str, Store]]:
    """Serve an empty cluster on loopback and yield its address and what it stores."""
    store = Store(version)
    handler = type("Request", (_Request,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
