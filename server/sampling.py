"""Sampling defaults of the Qwen3 model cards, used where a client names no value."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

THINKING: Mapping[str, float | int] = MappingProxyType(
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
)
"""Qwen3 model card, "Best Practices": thinking mode (greedy decoding there loops)."""

ANSWERING: Mapping[str, float | int] = MappingProxyType(
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}
)
"""The same card: non-thinking mode and the Instruct models."""


def defaults(*, thinking: bool) -> Mapping[str, float | int]:
    """Return the card's values for a request whose answer does or does not begin by thinking."""
    return THINKING if thinking else ANSWERING
