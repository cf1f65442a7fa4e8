"""What the chart is rendered with: the documented examples, and one change to one of them each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tests.helm.helm_kit import Document, merged, read_yaml, rendered, scenario, with_config

ALL: dict[str, dict[str, Any]] = read_yaml((Path(__file__).parent / "scenarios.yaml").read_text())


@cache
def values(name: str) -> dict[str, Any]:
    """Return the values of one scenario."""
    told = ALL[name]
    made = scenario(told["base"])
    if "also" in told:
        made = merged(scenario(told["also"]), made)
    for part, changes in told.get("config", {}).items():
        made = with_config(made, part, changes)
    return merged(made, told.get("values", {}))


@cache
def documents(name: str) -> tuple[Document, ...]:
    """Return what helm 4 renders of one scenario; read it, do not change it."""
    return tuple(rendered(values(name)))
