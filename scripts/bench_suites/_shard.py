"""Write a model of random bytes: one safetensors shard of bfloat16 matrices and a config."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

ROWS, COLUMNS = 1024, 4096


def write_model(into: Path, *, size: int) -> Path:
    """Write about `size` bytes of tensors of 8 MiB each below `into`, never more than one held."""
    each = ROWS * COLUMNS * 2
    count = max(1, size // each)
    header = {
        f"model.layers.{n}.w": {
            "dtype": "BF16",
            "shape": [ROWS, COLUMNS],
            "data_offsets": [n * each, (n + 1) * each],
        }
        for n in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4096 - 8 + 4096)
    into.mkdir(parents=True)
    (into / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with (into / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _ in range(count):
            stream.write(os.urandom(each))
    return into
