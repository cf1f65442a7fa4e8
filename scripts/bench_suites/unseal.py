"""Unsealing beside what the same library does in the cache, memcpy, and other encrypted formats.

What one thread does is CPU time, so that whatever else runs on the machine counts little; what two
do is wall clock, which is what they are for. The data is in the page cache and every buffer is
warm. One thread is promised for decrypting alone, a chunk of 4 MiB at a time, and shown with
fetching beside it. Beside the promises about both stands what no code can do without on this
machine: to fetch each byte once, for the host can change a page between two looks, and to decrypt
it once. Where that alone takes longer than was promised, the promise is out of reach of the
machine, not broken by the code.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from mmap import mmap
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import data_key
from attestation.sealing import TAG, FileCipher, FileShape
from attestation.weights import SealedModel, UnlockedModel, Unsealing, pages, seal
from scripts.bench_suites._row import Row, by_turns
from scripts.bench_suites._shard import write_model
from scripts.bench_suites._steps import Steps

PEERS = Path(__file__).resolve().parents[2] / ".venv-peers/bin/python"
SIZE = 256 << 20
WINDOW = 32 << 20
CHUNK = 4 << 20
ROUNDS = 9


def rows() -> Iterator[Row]:
    """Measure each step alone, ours, and each peer that is installed."""
    with tempfile.TemporaryDirectory() as directory:
        yield from _ceilings(Path(directory))
    yield from _peers()


def _ceilings(directory: Path) -> Iterator[Row]:
    write_model(directory / "model", size=SIZE)
    dek, signer = data_key(os.urandom(32)), Ed25519PrivateKey.generate()
    names = {"name": "bench", "version": 1, "key_uri": "kbs:///a/b/c"}
    manifest = seal(directory / "model", directory / "out", dek=dek, signer=signer, **names)  # type: ignore[arg-type]
    package = SealedModel.open(directory / "out", signer=signer.public_key())
    opened = {
        workers: package.unlock(dek, manifest=manifest.digest, minimum_version=1, workers=workers)
        for workers in (1, 2)
    }
    shard = next(file for file in manifest.files if file.role == "weights")
    slot, target = pages(WINDOW), pages(WINDOW)
    spans = range(0, shard.size // WINDOW * WINDOW, WINDOW)
    halves = range(0, spans.stop, WINDOW // 2)
    rooms = memoryview(slot)[: WINDOW // 2], memoryview(slot)[WINDOW // 2 :]

    def unseal(model: UnlockedModel) -> None:
        begun: deque[Unsealing] = deque()  # a half behind the other, as a load has them
        for start, room in zip(halves, cycle(rooms), strict=False):
            begun.append(model.begin(shard, room, offset=start))
            if len(begun) > 1:
                begun.popleft().wait()
        begun.popleft().wait()

    def copy() -> None:
        for _ in spans:
            _copy(slot, target)

    cipher = FileCipher(dek, shape=FileShape(bytes(32), 0, 1, CHUNK))
    sealed = memoryview(pages(CHUNK + TAG))[: CHUNK + TAG]
    cipher.seal_into(0, bytes(CHUNK), out=sealed)

    def decrypt() -> None:
        for start in range(0, spans.stop, CHUNK):
            part = memoryview(slot)[start % WINDOW :][:CHUNK]
            cipher.open_into(0, [sealed[:CHUNK]], bytes(sealed[CHUNK:]), parts=[part])

    steps = Steps(directory / "out" / shard.sealed_name)
    acts = {
        "aes": steps.decrypt,
        "read": steps.read,
        "steps": steps.both,
        "copy": copy,
        "decrypt": decrypt,
        "unseal": lambda: unseal(opened[1]),
        "place": lambda: unseal(opened[2]),
    }
    spent, waited = by_turns(acts, rounds=ROUNDS, clocks=(time.process_time, time.perf_counter))
    steps.close()
    for model in opened.values():
        model.close()
    yield Row(
        "decrypt into warm slots, one thread",
        spent["decrypt"],
        peer_name="AES-256-GCM in the cache",
        peer=spent["aes"],
        at_most=1 / 0.8,
    )
    yield Row(
        "read, decrypt into warm slots, one thread",
        spent["unseal"],
        peer_name="AES-256-GCM in the cache",
        peer=spent["aes"],
        floor=spent["read"] + spent["aes"],
    )
    yield Row(
        "read, decrypt into place, 2 threads",
        waited["place"],
        peer_name="memcpy, one thread",
        peer=waited["copy"],
        at_most=1 / 0.7,
        floor=waited["steps"],
    )


def _copy(source: mmap, target: mmap) -> None:
    ends = (ctypes.c_char * len(target)).from_buffer(target)
    ctypes.memmove(ends, (ctypes.c_char * len(source)).from_buffer(source), len(source))


def _peers() -> Iterator[Row]:
    if not PEERS.exists():
        print("  cryptotensors, tensorizer: not measured, scripts/peers installs them")
        return
    command = [PEERS, "-m", "scripts.bench_suites._unseal_peers"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=PEERS.parents[2]
    )
    said = json.loads(answer.stdout.splitlines()[-1])
    ours = "sealed shard into parameters, 2 threads"
    for name, most in (("cryptotensors", 1 / 2.5), ("tensorizer", 1 / 4), ("safetensors", None)):
        if isinstance(said[name], str):
            print(f"  {name}: not measured, {said[name]}")
        else:
            floor = None if most is None else said["steps"]
            yield Row(ours, said["ours"], name, said[name], most, floor)
