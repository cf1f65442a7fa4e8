"""A small model, its sealed packages and their keys, for tests of sealed weights."""

import json
import random
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import DataKey, data_key
from attestation.manifest import Manifest
from attestation.weights import SealedModel, seal

CHUNK = 1 << 20
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
DEK = data_key(b"k" * 32)
KEY_URI = "kbs:///tacit/model/tiny"


def safetensors(tensors: dict[str, bytes]) -> bytes:
    """Return a safetensors file of U8 vectors, written from the format's description."""
    header, at = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def write_model(into: Path, *, seed: int = 0, shard_bytes: int = 2 * CHUNK + 1000) -> Path:
    """Write a model of two shards of the same size, an index, config, tokenizer and template."""
    noise = random.Random(seed)  # noqa: S311 - weights, not keys
    into.mkdir()
    shards = {
        "model-00001-of-00002.safetensors": {"a.w": noise.randbytes(shard_bytes)},
        "model-00002-of-00002.safetensors": {"b.w": noise.randbytes(shard_bytes)},
    }
    index = {"metadata": {}, "weight_map": {t: s for s, held in shards.items() for t in held}}
    for name, held in shards.items():
        (into / name).write_bytes(safetensors(held))
    (into / "model.safetensors.index.json").write_text(json.dumps(index))
    (into / "config.json").write_text(json.dumps({"model_type": "qwen3", "seed": seed}))
    (into / "tokenizer.json").write_text("{}")
    (into / "merges.txt").write_bytes(b"")
    (into / "chat_template.jinja").write_text("{{ messages }}")
    return into


@dataclass(frozen=True)
class World:
    """One model sealed twice under one key: the current version, and an older one."""

    model: Path
    package: Path
    older: Path
    manifest: Manifest
    older_manifest: Manifest

    def sealed(self, path: str) -> Path:
        """Return the ciphertext of the file that was called `path`."""
        return self.package / next(f.sealed_name for f in self.manifest.files if f.path == path)


def build(directory: Path) -> World:
    """Write and seal the model; version 6 and 7 differ in their weights."""
    model = write_model(directory / "model")
    old_model = write_model(directory / "old-model", seed=1)
    package, older = directory / "package", directory / "older"
    return World(
        model,
        package,
        older,
        seal_model(model, package, version=7),
        seal_model(old_model, older, version=6),
    )


def copy(world: World, directory: Path) -> World:
    """Return the same world with packages of its own, to be damaged."""
    package, older = directory / "package", directory / "older"
    shutil.copytree(world.package, package)
    shutil.copytree(world.older, older)
    return World(world.model, package, older, world.manifest, world.older_manifest)


def seal_model(
    model: Path,
    out: Path,
    *,
    version: int = 1,
    dek: DataKey = DEK,
    workers: int = 2,
    chunk_size: int = CHUNK,
) -> Manifest:
    return seal(
        model,
        out,
        dek=dek,
        name="tiny",
        version=version,
        key_uri=KEY_URI,
        signer=SIGNER,
        chunk_size=chunk_size,
        workers=workers,
    )


def audit(package: Path, manifest: Manifest, *, dek: DataKey = DEK, minimum: int = 7) -> None:
    """Open, unlock and decrypt every byte, as a guest that was told `manifest` would."""
    opened = SealedModel.open(package, signer=SIGNER.public_key())
    with opened.unlock(dek, manifest=manifest.digest, minimum_version=minimum) as model:
        model.verify()
