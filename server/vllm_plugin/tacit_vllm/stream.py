"""Sealed safetensors in, named tensors out, each of which keeps its own memory alive.

While the model copies one window, the next ones are read and decrypted. A window's memory is used
again when its last tensor is gone, never before: vLLM may hold tensors until a layer is complete.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import torch

from attestation.errors import Malformed
from attestation.manifest import SealedFile
from attestation.safetensors import PREFIX, TensorPlace, header_size, parse_header
from attestation.weights import UnlockedModel, Unsealing, pages
from tacit_vllm.chunks import Chunks
from tacit_vllm.windows import Window, windows

_WINDOW = 32 * 1024 * 1024
_AHEAD = 2
"""Windows in flight behind the one in use."""

_SLOTS = 8
"""Windows kept for use again, at most; more are made and freed while a model holds on to them."""

DTYPES = MappingProxyType(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E8M0": torch.float8_e8m0fnu,
        "I16": torch.int16,
        "U16": torch.uint16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I32": torch.int32,
        "U32": torch.uint32,
        "F32": torch.float32,
        "I64": torch.int64,
        "U64": torch.uint64,
        "F64": torch.float64,
    }
)


Memory = Any
"""Writable bytes whose owner `torch.frombuffer` holds on to: an `mmap` or a NumPy array."""


def pinned(size: int) -> Memory:
    """Return memory that a GPU copies from without a stop in the driver's own.

    Allocated by CUDA: in confidential computing memory of ours cannot be registered with it.
    """
    memory = torch.empty(max(size, 1), dtype=torch.uint8, device="cpu", pin_memory=True)
    return owned(memory)


def owned(memory: torch.Tensor) -> Memory:
    """Return the bytes of a tensor as an object that counts who uses them."""
    return memory.numpy()


def tensors(
    model: UnlockedModel,
    *,
    skip: Callable[[str], bool],
    memory: Callable[[int], Memory] = pages,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor whose name `skip` does not reject, once all of its chunks authenticated.

    The slots of the ring are of `memory`. A caller that copies a tensor to a GPU must have waited
    for that copy when it lets the tensor go, as `copy_` does. Raises what
    `UnlockedModel.unseal_into` raises.
    """
    ring = _Ring(memory)
    flight: deque[tuple[Window, Memory, Unsealing]] = deque()
    try:
        for file, window in _plan(model, skip):
            slot = ring.take(window.size)
            view = memoryview(slot)[: window.size]
            flight.append((window, slot, model.begin(file, view, offset=window.start)))
            del slot, view  # nothing but its tensors may keep a window
            if len(flight) > _AHEAD:
                yield from _land(*flight.popleft())
        while flight:
            yield from _land(*flight.popleft())
    finally:
        for _, _, unsealing in flight:
            unsealing.abandon()


def places(
    model: UnlockedModel | Chunks,
) -> Iterator[tuple[SealedFile, tuple[TensorPlace, ...]]]:
    """Yield each file of weights with its tensors; no name occurs twice in a package."""
    seen: set[str] = set()
    for file in model.manifest.files:
        if file.role != "weights":
            continue
        prefix = bytearray(PREFIX)
        if file.size < PREFIX:
            raise Malformed("safetensors-header", f"file {file.id} has {file.size} bytes")
        model.unseal_into(file, memoryview(prefix))
        header = bytearray(header_size(bytes(prefix), file_size=file.size))
        model.unseal_into(file, memoryview(header), offset=PREFIX)
        held = parse_header(bytes(header), file_size=file.size)
        if not seen.isdisjoint(place.name for place in held):
            raise Malformed("safetensors-header", f"file {file.id} repeats another's tensor")
        seen.update(place.name for place in held)
        yield file, held


def _plan(model: UnlockedModel, skip: Callable[[str], bool]) -> Iterator[tuple[SealedFile, Window]]:
    for file, held in places(model):
        wanted = [place for place in held if not skip(place.name)]
        for window in windows(wanted, limit=_WINDOW, gap=model.manifest.chunk_size):
            yield file, window


def _land(
    window: Window, memory: Memory, unsealing: Unsealing
) -> Iterator[tuple[str, torch.Tensor]]:
    unsealing.wait()
    for place in window.places:
        yield place.name, _tensor(place, memory, at=place.start - window.start)


class _Ring:
    """Memory that windows share in turn: its page faults cost more than decrypting into it.

    Whether a slot is free is read off its reference count, which every tensor over it raises; what
    a free slot counts is measured the same way, for interpreters count differently.
    """

    def __init__(self, memory: Callable[[int], Memory]) -> None:
        self._memory = memory
        self._slots = [memory(_WINDOW)]
        (self._free,) = self._counts()

    def take(self, size: int) -> Memory:
        """Return at least `size` bytes that nobody else holds."""
        if size > _WINDOW:
            return pages(size)  # used once: pinning it takes longer than it saves
        for slot, count in enumerate(self._counts()):
            if count == self._free:
                return self._slots[slot]
        fresh = self._memory(_WINDOW)
        if len(self._slots) < _SLOTS:
            self._slots.append(fresh)
        return fresh

    def _counts(self) -> list[int]:
        return [sys.getrefcount(slot) for slot in self._slots]


def _tensor(place: TensorPlace, memory: Memory, *, at: int) -> torch.Tensor:
    dtype = DTYPES[place.dtype]
    if place.start == place.end:
        return torch.empty(place.shape, dtype=dtype)
    count = (place.end - place.start) // dtype.itemsize
    if at % dtype.itemsize:  # a file packed tightly; torch reads aligned memory only
        apart = bytearray(memory[at : at + place.end - place.start])
        return torch.frombuffer(apart, dtype=dtype).reshape(place.shape)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=at).reshape(place.shape)
