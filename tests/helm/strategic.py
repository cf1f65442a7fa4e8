"""Strategic merge patches as helm 3 sends them: object and patch in, patched object out."""

from __future__ import annotations

import copy
from typing import Any

KEYS = {
    "volumes": "name",
    "containers": "name",
    "initContainers": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "topologySpreadConstraints": "topologyKey",
}
"""How the elements of a list are told apart; other lists are replaced."""


def patched(old: Any, change: Any, *, field: str = "") -> Any:
    """Apply `change`, the value of `field`, to `old`."""
    if isinstance(change, list) and isinstance(old, list) and _key(field, change):
        return _patched_list(old, change, key=_key(field, change))
    if not isinstance(change, dict) or not isinstance(old, dict):
        return _plain(change)
    kept = change.get("$retainKeys")
    out = {k: v for k, v in old.items() if kept is None or k in kept}
    for name, value in change.items():
        if name.startswith("$"):
            continue  # directives; the order of elements is of no consequence here
        if value is None:
            out.pop(name, None)
        else:
            out[name] = patched(out.get(name), value, field=name)
    return out


def _key(field: str, change: list[Any]) -> str:
    if field == "ports" and change and isinstance(change[0], dict):
        return "containerPort" if "containerPort" in change[0] else "port"
    return KEYS.get(field, "")


def _patched_list(old: list[Any], change: list[Any], *, key: str) -> list[Any]:
    found = {item[key]: item for item in old}
    for item in change:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
        else:
            found[item[key]] = patched(found.get(item[key], {}), item)
    return list(found.values())


def _plain(value: Any) -> Any:
    """Return a value without the directives that only mean something beside an old one."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    return copy.deepcopy(value)
