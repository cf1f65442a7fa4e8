"""Qwen3 architectures: a published name, or the config.json of a checkpoint, in; sizes out."""

from __future__ import annotations

from typing import Any

from attestation.codec import parse_json
from attestation.errors import Malformed
from server.sizing import Architecture

_VOCABULARY = 151_936
_POSITIONS = 40_960

# hidden, layers, heads, KV heads, MLP width (of one expert), tied, experts, experts of a token:
# config.json of each model as Qwen published it.
_PUBLISHED = {
    "Qwen3-0.6B": (1024, 28, 16, 8, 3072, True, 0, 0),
    "Qwen3-1.7B": (2048, 28, 16, 8, 6144, True, 0, 0),
    "Qwen3-4B": (2560, 36, 32, 8, 9728, True, 0, 0),
    "Qwen3-8B": (4096, 36, 32, 8, 12288, False, 0, 0),
    "Qwen3-14B": (5120, 40, 40, 8, 17408, False, 0, 0),
    "Qwen3-32B": (5120, 64, 64, 8, 25600, False, 0, 0),
    "Qwen3-30B-A3B": (2048, 48, 32, 4, 768, False, 128, 8),
    "Qwen3-235B-A22B": (4096, 94, 64, 4, 1536, False, 128, 8),
}
_FP8 = "-FP8"
NAMES = tuple(name + suffix for name in _PUBLISHED for suffix in ("", _FP8))
"""Every published name that `published` knows."""


def published(name: str) -> Architecture | None:
    """Return the architecture of a published name, or None."""
    sizes = _PUBLISHED.get(name.removesuffix(_FP8))
    if sizes is None:
        return None
    hidden, layers, heads, kv_heads, width, tied, experts, used = sizes
    return Architecture(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        intermediate=width,
        vocabulary=_VOCABULARY,
        tied=tied,
        experts=experts,
        experts_used=used,
        positions=_POSITIONS,
        weights="fp8" if name.endswith(_FP8) else "bf16",
    )


def from_config(data: bytes, *, name: str) -> Architecture:
    """Return the architecture that a checkpoint's config.json describes.

    Raises `Malformed` for JSON that is not one, or another architecture than Qwen3's.
    """
    config = parse_json(data)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in {"qwen3", "qwen3_moe"}:
        raise Malformed("plan-architecture", f"config.json of {name} is not of qwen3 or qwen3_moe")
    moe = kind == "qwen3_moe"
    if moe and (config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1):
        raise Malformed("plan-architecture", f"{name} mixes dense layers and experts")
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    if quantized is not None and method != "fp8":
        raise Malformed("plan-architecture", f"{name} is quantized in another way than FP8")
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    return Architecture(
        name=name,
        hidden=hidden,
        layers=_count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads"),
        head_dim=_count(config, "head_dim"),
        intermediate=_count(config, "moe_intermediate_size" if moe else "intermediate_size"),
        vocabulary=_count(config, "vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
        experts=_count(config, "num_experts") if moe else 0,
        experts_used=_count(config, "num_experts_per_tok") if moe else 0,
        positions=_count(config, "max_position_embeddings"),
        weights="fp8" if method == "fp8" else "bf16",
    )


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise Malformed("field-invalid", f"config.json: {key} is not a positive number")
    return value
