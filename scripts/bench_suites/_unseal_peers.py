"""Load one shard into warm parameters by each format; print seconds as one line of JSON.

Runs in .venv-peers (scripts/peers), which has torch. Every format copies each tensor into a
parameter that exists and lies in huge pages, as our loader sees to. Wall clock: some decrypt by
several threads, and two threads of one core do not do twice the work of one. `steps` is what
sealing cannot do without.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import load_file, safe_open

from attestation.confidential import data_key
from attestation.weights import SealedModel, seal
from scripts.bench_suites._memory import touch
from scripts.bench_suites._row import by_turns
from scripts.bench_suites._shard import write_model
from scripts.bench_suites._steps import Steps

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "server/vllm_plugin"))
from tacit_vllm.behind import Behind
from tacit_vllm.chunks import Chunks
from tacit_vllm.huge_pages import take_huge_pages
from tacit_vllm.rows import Rows

SIZE = 512 << 20
ROUNDS = 9


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shard = write_model(directory / "model", size=SIZE) / "model.safetensors"
        held = load_file(shard)
        warm = {name: torch.empty_like(tensor) for name, tensor in held.items()}
        take_huge_pages(warm.values())
        acts = {"ours": _ours(directory, warm), "safetensors": lambda: _plain(shard, warm)}
        said: dict[str, object] = {}
        for peer, prepare in (("cryptotensors", _cryptotensors), ("tensorizer", _tensorizer)):
            try:
                acts[peer] = prepare(directory, warm, held)
            except (ImportError, OSError) as error:
                said[peer] = f"{type(error).__name__} on import"
        for act in acts.values():
            _check(act, warm, held)
        steps = Steps(shard)
        acts["steps"] = steps.both
        backed = partial(touch, 3 * SIZE)
        (waited,) = by_turns(acts, rounds=ROUNDS, clocks=(time.perf_counter,), before=backed)
        said |= waited
        steps.close()
    print(json.dumps(said))


Tensors = dict[str, torch.Tensor]


def _ours(directory: Path, warm: Tensors) -> Callable[[], None]:
    dek, signer = data_key(os.urandom(32)), Ed25519PrivateKey.generate()
    manifest = seal(
        directory / "model",
        directory / "sealed",
        dek=dek,
        signer=signer,
        name="bench",
        version=1,
        key_uri="kbs:///a/b/c",
    )

    held = frozenset(tensor.untyped_storage().data_ptr() for tensor in warm.values())

    def load() -> None:
        package = SealedModel.open(directory / "sealed", signer=signer.public_key())
        with package.unlock(dek, manifest=manifest.digest, minimum_version=1) as model:
            rows = Rows(
                Chunks(model, ahead=0), refusing=nullcontext, behind=Behind(model), targets=held
            )
            for name, tensor in rows.tensors(skip=lambda _: False):
                warm[name].copy_(tensor)

    return load


def _plain(shard: Path, warm: Tensors) -> None:
    with safe_open(shard, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no mapping
            warm[name].copy_(opened.get_tensor(name))


def _cryptotensors(directory: Path, warm: Tensors, held: Tensors) -> Callable[[], None]:
    from cryptotensors import SerializeCryptoConfig, register_direct_key_provider  # noqa: PLC0415
    from cryptotensors.torch import safe_open as safe_open_sealed  # noqa: PLC0415
    from cryptotensors.torch import save_file  # noqa: PLC0415

    path, signer = directory / "peer.cryptotensors", Ed25519PrivateKey.generate()
    public = base64.b64encode(signer.public_key().public_bytes_raw()).decode()
    common = {"kty": "okp", "crv": "Ed25519", "alg": "ed25519", "kid": "sign", "x": public}
    sealing = {
        "kty": "oct",
        "alg": "aes256gcm",
        "kid": "seal",
        "k": base64.b64encode(os.urandom(32)).decode(),
    }
    signing = common | {"d": base64.b64encode(signer.private_bytes_raw()).decode()}
    register_direct_key_provider(keys=[sealing, common])
    config = SerializeCryptoConfig(enc_key=sealing, sign_key=signing)
    save_file(held, path, config=config.to_dict())

    def load() -> None:
        with safe_open_sealed(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                warm[name].copy_(opened.get_tensor(name))

    return load


def _tensorizer(directory: Path, warm: Tensors, held: Tensors) -> Callable[[], None]:
    from tensorizer import (  # noqa: PLC0415 - it may be absent
        DecryptionParams,
        EncryptionParams,
        TensorDeserializer,
        TensorSerializer,
    )

    path, secret = directory / "peer.tensors", EncryptionParams.random()
    serializer = TensorSerializer(str(path), encryption=secret)
    serializer.write_state_dict(held)
    serializer.close()
    opening = DecryptionParams.from_key(secret.key)

    def load() -> None:
        with TensorDeserializer(
            str(path), device="cpu", encryption=opening, num_readers=2
        ) as opened:
            for name, tensor in opened.items():
                warm[name].copy_(tensor)

    return load


def _check(load: Callable[[], None], warm: Tensors, held: Tensors) -> None:
    for tensor in warm.values():
        tensor.zero_()
    load()
    if not all(torch.equal(warm[n].view(torch.int16), held[n].view(torch.int16)) for n in held):
        raise AssertionError("the tensors are not what was written")


if __name__ == "__main__":
    main()
