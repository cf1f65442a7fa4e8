"""The two helm binaries, and what the chart renders with them, each render made once."""

from __future__ import annotations

import copy
import functools
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "tacit"
TOOLS = ROOT / ".tools"
HELMS = ("helm3", "helm4")
NAMESPACE = "tacit"

Document = dict[str, Any]

# libyaml where it is there: the suite reads and writes megabytes of YAML
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(text: str | bytes) -> Any:
    """Return the one document of `text`."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - safe, in C


def read_all(text: str) -> list[Document]:
    """Return the documents of `text` that are not empty."""
    return [found for found in yaml.load_all(text, Loader=_Loader) if found]


def write_yaml(document: Any) -> str:
    """Return one document as text."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    return text


def helm(version: str) -> Path:
    """Return a helm binary, or skip where `scripts/test-tools` has not been run."""
    binary = TOOLS / version / "helm"
    if not binary.exists():
        pytest.skip(f"{version} is not installed (scripts/test-tools)")
    return binary


def run(version: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm with no configuration of whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="tacit-helm-") as home:
        command = [str(helm(version)), *map(str, words)]
        environment = {"HOME": home, "PATH": "/usr/bin:/bin", "GOGC": "off"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, timeout=60
        )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as helm merges values files: mappings deeply, everything else replaced."""
    out = dict(copy.deepcopy(base))
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else copy.deepcopy(value)
    return out


@functools.cache
def scenario(name: str) -> dict[str, Any]:
    """Return the values of an example in `helm/tacit/scenarios`."""
    loaded: dict[str, Any] = read_yaml((CHART / "scenarios" / f"{name}.yaml").read_text())
    return loaded


def template(
    values: Mapping[str, Any],
    *,
    version: str = "helm4",
    release: str = "tacit",
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    """Render, or fail, as `helm template` does."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(write_yaml(dict(values)))
        file.flush()
        words = ("template", release, chart, "--namespace", NAMESPACE, "--values", file.name)
        return run(version, *words, check=False)


def rendered(
    values: Mapping[str, Any],
    *,
    version: str = "helm4",
    release: str = "tacit",
    chart: Path = CHART,
) -> list[Document]:
    """Return the objects of a render that succeeds."""
    done = template(values, version=version, release=release, chart=chart)
    assert done.returncode == 0, done.stderr
    return read_all(done.stdout)


def find(documents: list[Document], kind: str, name: str = "") -> Document:
    """Return the one object of a kind, or the one of that name."""
    found = [d for d in documents if d["kind"] == kind and name in ("", d["metadata"]["name"])]
    assert len(found) == 1, (kind, name, [d["metadata"]["name"] for d in found])
    return found[0]


def pods(documents: list[Document]) -> list[Document]:
    """Return every pod specification of a render."""
    specs = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Deployment"]
    return specs + [d["spec"] for d in documents if d["kind"] == "Pod"]


def containers(spec: Document) -> list[Document]:
    """Return every container of a pod."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def with_config(values: Mapping[str, Any], part: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change dotted paths of the configuration inside `values`; None removes one."""
    config = read_yaml(values[part]["config"])
    for dotted, value in changes.items():
        *parents, last = dotted.split("/")
        place = config
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return merged(values, {part: {"config": write_yaml(config)}})
