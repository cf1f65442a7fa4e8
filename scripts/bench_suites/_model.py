"""Runs in the engine's environment: a checkpoint in the shape of Qwen3-0.6B, with random weights.

python -m scripts.bench_suites._model DEMO DIRECTORY -> DEMO's tokenizer and template, other weights
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, Qwen3ForCausalLM

LAYERS = 4
"""Of the 28 that Qwen3-0.6B has: far less than the smallest model of the family."""
_SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": LAYERS,
    "layer_types": ["full_attention"] * LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def main(demo: Path, directory: Path) -> None:
    """Write the checkpoint; the same one every time."""
    shutil.copytree(demo, directory, ignore=shutil.ignore_patterns("*.safetensors", ".*"))
    config = AutoConfig.from_pretrained(demo)
    config.update({**_SHAPE, "dtype": torch.bfloat16})
    torch.manual_seed(20261125)
    torch.set_default_dtype(torch.bfloat16)
    Qwen3ForCausalLM(config).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
