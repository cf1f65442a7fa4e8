"""Runs in the engine's environment: stream and verify sealed packages; print the memory it took.

python sealed_memory.py SIGNER DEK [PACKAGE MANIFEST]... -> a line of bytes for each package
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tacit_vllm.behind import Behind
from tacit_vllm.chunks import AHEAD, Chunks
from tacit_vllm.rows import Rows
from tacit_vllm.stream import tensors

from attestation.confidential import data_key
from attestation.types import Digest
from attestation.weights import SealedModel


def peak(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def extra(act) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
    before = peak("VmRSS:")
    act()
    return peak("VmHWM:") - before


def main(package: Path, signer: bytes, dek: bytes, manifest: Digest) -> None:
    opened = SealedModel.open(package, signer=Ed25519PublicKey.from_public_bytes(signer))
    room = torch.zeros(64 << 20, dtype=torch.bfloat16)

    def load() -> None:
        with opened.unlock(data_key(dek), manifest=manifest, minimum_version=1) as model:
            held = frozenset({room.untyped_storage().data_ptr()})
            chunks, behind = Chunks(model, ahead=0), Behind(model)
            rows = Rows(chunks, refusing=nullcontext, behind=behind, targets=held)
            for _, tensor in rows.tensors(skip=lambda _: False):
                room[: tensor.numel()].view(tensor.shape).copy_(tensor)

    def wait() -> None:
        with opened.unlock(data_key(dek), manifest=manifest, minimum_version=1) as model:
            rows = Rows(Chunks(model, ahead=AHEAD), refusing=nullcontext)
            for _, tensor in rows.tensors(skip=lambda _: False):
                room[: tensor.numel()].view(tensor.shape).copy_(tensor)

    def window() -> None:
        with opened.unlock(data_key(dek), manifest=manifest, minimum_version=1) as model:
            for _, tensor in tensors(model, skip=lambda _: False):
                room[: tensor.numel()].copy_(tensor.flatten())

    def verify() -> None:
        with opened.unlock(data_key(dek), manifest=manifest, minimum_version=1) as model:
            model.verify()

    acts = {"load": load, "wait": wait, "window": window, "verify": verify}
    print(json.dumps({name: extra(act) for name, act in acts.items()}))


if __name__ == "__main__":
    signer, dek = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2])
    for package, manifest in zip(sys.argv[3::2], sys.argv[4::2], strict=True):
        main(Path(package), signer, dek, Digest.parse(manifest))
