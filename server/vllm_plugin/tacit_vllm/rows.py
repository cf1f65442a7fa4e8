"""Sealed safetensors in, named tensors out whose bytes are unsealed when vLLM uses them.

A tensor-parallel rank takes rows out of most tensors (`narrow`, a slice of the first dimension):
only the chunks of these rows are read and decrypted. Whatever else is done to such a tensor is done
to the whole of it, so that no operation can ever see bytes that were not unsealed.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map_only

from attestation.manifest import SealedFile
from attestation.safetensors import TensorPlace
from attestation.weights import UnlockedModel
from tacit_vllm.stream import DTYPES, places

_slice = torch.ops.aten.slice.Tensor
_detach = torch.ops.aten.detach.default


@dataclass(slots=True)
class Rows:
    """The sealed tensors of one load, and how much of the package it took."""

    model: UnlockedModel
    refusing: Callable[[], AbstractContextManager[None]]
    """Entered around each unsealing, which happens in vLLM's hands."""
    unsealed: int = 0
    """Bytes read and decrypted: whole chunks, and those twice that two tensors share."""

    def tensors(self, *, skip: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor whose name `skip` does not reject; use it before the model closes."""
        for file, held in places(self.model):
            for place in held:
                if not skip(place.name):
                    yield place.name, SealedTensor(self, file, place)

    def read(self, file: SealedFile, start: int, *, size: int) -> mmap.mmap:
        """Return `size` bytes of `file` from `start` on, once their chunks authenticated."""
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        with self.refusing():
            self.model.unseal_into(file, memoryview(memory), offset=start)
        chunk = self.model.manifest.chunk_size
        first, end = start - start % chunk, min(file.size, -(-(start + size) // chunk) * chunk)
        self.unsealed += end - first
        return memory


class SealedTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor that is still in its package; slicing its first dimension unseals those rows."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # noqa: SLF001 - documented so

    rows: Rows
    file: SealedFile
    place: TensorPlace

    @staticmethod
    def __new__(cls: type[Self], rows: Rows, file: SealedFile, place: TensorPlace) -> Self:
        """Make a tensor of the right shape and type without memory."""
        made: Self = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - the public way to do so
            cls, place.shape, dtype=DTYPES[place.dtype], device="cpu"
        )
        made.rows, made.file, made.place = rows, file, place
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Unseal what `function` is about to use, then let it."""
        if function is _detach:
            (tensor,) = args
            return cls(tensor.rows, tensor.file, tensor.place)
        if function is _slice and (rows := _plain_rows(args)) is not None:
            return args[0].take(rows)
        for declared, given in zip(function._schema.arguments, args, strict=False):  # noqa: SLF001
            if isinstance(given, cls) and declared.alias_info and declared.alias_info.is_write:
                raise TypeError("a sealed tensor is not written to")
        args, kwargs = tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return function(*args, **kwargs)

    def whole(self) -> torch.Tensor:
        """Unseal all of it."""
        return self._unsealed(self.place.start, shape=self.place.shape)

    def take(self, rows: range) -> torch.Tensor:
        """Unseal these rows of the first dimension."""
        place = self.place
        each = (place.end - place.start) // place.shape[0]
        return self._unsealed(place.start + rows.start * each, shape=(len(rows), *place.shape[1:]))

    def _unsealed(self, start: int, *, shape: tuple[int, ...]) -> torch.Tensor:
        dtype = DTYPES[self.place.dtype]
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        memory = self.rows.read(self.file, start, size=size)
        return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def _plain_rows(args: Sequence[Any]) -> range | None:
    """Return the rows a slice of `aten` wants, if it is of the first dimension and without gaps."""
    defaults: Sequence[Any] = (0, None, None, 1)
    dimension, start, stop, step = (*args[1:], *defaults[len(args) - 1 :])
    if dimension != 0 or step != 1:
        return None
    return range(*slice(start, stop).indices(args[0].shape[0]))
