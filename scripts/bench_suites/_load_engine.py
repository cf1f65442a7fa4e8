"""Runs in the engine's environment: load one checkpoint into vLLM, plain and sealed by turns.

python -m scripts.bench_suites._load_engine DIRECTORY ROUNDS -> one JSON line, seconds of each load
from the page cache and from the disk
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm.config import set_current_vllm_config
from vllm.distributed import (
    init_distributed_environment,
    initialize_model_parallel,
    model_parallel_is_initialized,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype

from attestation.confidential import data_key
from attestation.keywire import Grant, encode
from attestation.weights import SealedModel, seal
from scripts.bench_suites._memory import touch


def checkpoint(into: Path) -> None:
    """Write random weights in the shape of Qwen3-0.6B, with 12 of its 28 layers: 0.5 GB."""
    torch.manual_seed(20261125)
    config = Qwen3Config(
        vocab_size=32768,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    Qwen3ForCausalLM(config).save_pretrained(into, max_shard_size="200MB")
    torch.set_default_dtype(torch.float32)


def sealed(model: Path, directory: Path) -> tuple[Path, dict[str, object]]:
    """Seal the checkpoint; return its small files and what loads the rest, over a key agent."""
    dek, signer = data_key(os.urandom(32)), Ed25519PrivateKey.generate()
    names = {"name": "bench", "version": 1, "key_uri": "kbs:///a/b/c"}
    manifest = seal(model, directory / "sealed", dek=dek, signer=signer, **names)
    package = SealedModel.open(directory / "sealed", signer=signer.public_key())
    with package.unlock(dek, manifest=manifest.digest, minimum_version=1) as unlocked:
        unlocked.unseal_small(directory / "small")
    path = directory / "keys.sock"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    line = encode(Grant(dek, manifest.digest, 1))
    threading.Thread(target=grant, args=(listening, line), daemon=True).start()
    return directory / "small", {
        "key_socket": str(path),
        "sealed_dir": str(directory / "sealed"),
        "signer": signer.public_key().public_bytes_raw().hex(),
        "model": "bench",
    }


def grant(listening: socket.socket, line: bytes) -> None:
    """Give the key to whoever asks: every load of this process does."""
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.makefile("rb").readline()
            connection.sendall(line)


def load(arguments: EngineArgs) -> float:
    """Return the seconds of vLLM's load phase, into a model made for it."""
    engine = arguments.create_engine_config()  # anew: it notes the layers of a model
    loader = get_model_loader(engine.load_config)
    with set_current_vllm_config(engine), set_default_torch_dtype(engine.model_config.dtype):
        if not model_parallel_is_initialized():
            rendezvous = f"file://{arguments.download_dir}/rendezvous"
            init_distributed_environment(1, 0, rendezvous, 0, backend="gloo")
            initialize_model_parallel(1, 1)
        model = initialize_model(vllm_config=engine)
        start = time.perf_counter()
        loader.load_weights(model, engine.model_config)
        return time.perf_counter() - start


def main(directory: Path, rounds: int) -> None:
    """Make, seal, load by turns, print."""
    plain = directory / "plain"
    checkpoint(plain)
    small, settings = sealed(plain, directory)
    alike: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "dtype": "bfloat16",
        "use_tqdm_on_load": False,
        "download_dir": str(directory),
    }
    ways = {
        "stock": EngineArgs(model=str(plain), load_format="safetensors", **alike),
        "sealed": EngineArgs(
            model=str(small), load_format="sealed", model_loader_extra_config=settings, **alike
        ),
    }
    size = sum(path.stat().st_size for path in plain.glob("*.safetensors"))
    files = [*plain.glob("*.safetensors"), *(directory / "sealed").iterdir()]
    seconds: dict[str, dict[str, list[float]]] = {
        where: {name: [] for name in ways} for where in ("page cache", "disk")
    }
    for where, found in seconds.items():
        for _ in range(rounds + 1):
            for name, arguments in ways.items():
                if where == "disk":
                    forget(files)
                touch(4 * size)
                found[name].append(load(arguments))
        for name, each in found.items():
            found[name] = each[1:]  # the first ones warm up
    print(f"\n{json.dumps({'bytes': size, 'seconds': seconds})}", flush=True)


def forget(files: list[Path]) -> None:
    """Have the kernel drop what it keeps of files in memory; what was written is on the disk."""
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
