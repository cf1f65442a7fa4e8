"""Unsealing beside what the same library does in the cache, memcpy, and other encrypted formats.

Times of one thread and of other formats are CPU time, so that whatever else runs on the machine
counts little; what two threads do is wall clock, which is what they are for. The data is in the
page cache and every buffer is warm. Where a promise is broken, the row after it gives the
arithmetic: the steps alone, which is what can be reached by reading host-shared pages once only.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.confidential import data_key
from attestation.weights import SealedModel, UnlockedModel, seal
from scripts.bench_suites._row import Row
from scripts.bench_suites._shard import write_model

PEERS = Path(__file__).resolve().parents[2] / ".venv-peers/bin/python"
CHUNK = 4 << 20
SIZE = 256 << 20
WINDOW = 32 << 20
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
    slot, target = bytearray(WINDOW), bytearray(WINDOW)
    spans = range(0, shard.size // WINDOW * WINDOW, WINDOW)

    def unseal(model: UnlockedModel) -> None:
        for start in spans:
            model.unseal_into(shard, memoryview(slot), offset=start)

    def load() -> None:
        for start in spans:
            opened[2].unseal_into(shard, memoryview(slot), offset=start)
            _copy(slot, target)

    sealed = directory / "out" / shard.sealed_name
    descriptor, staging = os.open(sealed, os.O_RDONLY), bytearray(CHUNK)

    def read() -> None:
        for at in range(0, len(spans) * WINDOW, CHUNK):
            os.preadv(descriptor, [staging], at)

    def copy() -> None:
        for _ in spans:
            _copy(slot, target)

    hot = _Hot(len(spans) * WINDOW)
    acts = {
        "aes": hot.once,
        "aes2": hot.twice,
        "read": read,
        "copy": copy,
        "unseal": lambda: unseal(opened[1]),
        "load": load,
    }
    spent, waited = _measured(acts)
    os.close(descriptor)
    for model in opened.values():
        model.close()
    aes = "AES-256-GCM in the cache"
    yield Row("unseal into warm slots, one thread", spent["unseal"], aes, spent["aes"], 1 / 0.8)
    steps = spent["read"] + spent["aes"]
    yield Row("  the same", spent["unseal"], "read, then AES-256-GCM", steps)
    yield Row("AES-256-GCM, 2 threads", waited["aes2"], "memcpy, one thread", waited["copy"])
    what = "read + decrypt + copy, 2 threads"
    yield Row(what, waited["load"], "memcpy, one thread", waited["copy"], 1 / 0.7)
    steps = waited["read"] / 2 + waited["aes2"] + waited["copy"]
    yield Row("  the same", waited["load"], "read and AES by two, memcpy", steps)


class _Hot:
    """AES-256-GCM of the library over the same 256 KiB, which stay in a core's own cache."""

    def __init__(self, size: int) -> None:
        self._turns = size >> 18
        self._cipher = AESGCM(bytes(32))
        self._sealed = self._cipher.encrypt(bytes(12), bytes(1 << 18), b"")
        self._rooms = bytearray(1 << 18), bytearray(1 << 18)

    def once(self) -> None:
        self._run(self._rooms[0], self._turns)

    def twice(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda room: self._run(room, self._turns // 2), self._rooms))

    def _run(self, room: bytearray, turns: int) -> None:
        for _ in range(turns):
            self._cipher.decrypt_into(bytes(12), self._sealed, b"", room)


def _copy(source: bytearray, target: bytearray) -> None:
    ends = (ctypes.c_char * len(target)).from_buffer(target)
    ctypes.memmove(ends, (ctypes.c_char * len(source)).from_buffer(source), len(source))


def _measured(acts: dict[str, Callable[[], object]]) -> tuple[dict[str, float], dict[str, float]]:
    """Run each in turn, several times; return lower quartiles of CPU and of wall-clock seconds."""
    clocks = time.process_time, time.perf_counter
    times = tuple({name: list[float]() for name in acts} for _ in clocks)
    for _ in range(ROUNDS):
        for name, act in acts.items():
            begun = [clock() for clock in clocks]
            act()
            for seen, clock, start in zip(times, clocks, begun, strict=True):
                seen[name].append(clock() - start)
    first, second = (
        {name: sorted(spent)[ROUNDS // 4] for name, spent in seen.items()} for seen in times
    )
    return first, second


def _peers() -> Iterator[Row]:
    if not PEERS.exists():
        print("  cryptotensors, tensorizer: not measured, scripts/peers installs them")
        return
    command = [PEERS, "-m", "scripts.bench_suites._unseal_peers"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=PEERS.parents[2]
    )
    said = json.loads(answer.stdout.splitlines()[-1])
    for name, most in (("cryptotensors", 1 / 2.5), ("tensorizer", 1 / 4)):
        if isinstance(said[name], str):
            print(f"  {name}: not measured, {said[name]}")
        else:
            ours = "unseal and copy every tensor, 2 threads"
            yield Row(ours, said["ours"], name, said[name], most)
    yield Row("  the same", said["ours"], "plain safetensors", said["safetensors"])
