"""Sealed safetensors in, named tensors out whose bytes are unsealed when vLLM uses them.

vLLM copies each tensor into a parameter; a parameter in this process's memory is what it is
decrypted into, at once or with all that later tensors have of the same chunks. A tensor-parallel
rank takes rows out of most tensors (`narrow`, a slice of the first dimension): only the chunks of
these rows are read and decrypted. Whatever else is done to such a tensor is done to the whole of
it, so that no operation can ever see bytes that were not unsealed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map_only

from attestation.manifest import SealedFile
from attestation.safetensors import TensorPlace
from tacit_vllm.behind import Behind
from tacit_vllm.chunks import Chunks
from tacit_vllm.stream import DTYPES, places

_copy = torch.ops.aten.copy_.default
_slice = torch.ops.aten.slice.Tensor
_detach = torch.ops.aten.detach.default


@dataclass(slots=True)
class Rows:
    """The sealed tensors of one load."""

    chunks: Chunks
    refusing: Callable[[], AbstractContextManager[None]]
    """Entered around each unsealing, which happens in vLLM's hands."""
    behind: Behind | None = None
    """Fills `targets`, if any, by the end of `tensors`; whatever else is filled at once."""
    targets: Container[int] = ()
    """Addresses of the memory that nobody reads before: that of a model's parameters."""

    def tensors(self, *, skip: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor whose name `skip` does not reject; use it before the model closes."""
        try:
            for file, held in places(self.chunks):
                for place in held:
                    if not skip(place.name):
                        yield place.name, SealedTensor(self, file, place)
        except GeneratorExit:  # whoever asks for no more has what it asked for all the same
            self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        if self.behind is not None:
            with self.refusing():
                self.behind.finish()

    def put(self, file: SealedFile, place: TensorPlace, *, into: torch.Tensor) -> None:
        """Fill `into`, as large and contiguous; a target by the end of `tensors`."""
        if self.behind is None or into.untyped_storage().data_ptr() not in self.targets:
            self.read(file, place, into=into)
            return
        with self.refusing():
            self.behind.unseal_into(file, _bytes(into), offset=place.start)

    def read(self, file: SealedFile, place: TensorPlace, *, into: torch.Tensor) -> None:
        """Fill `into`, as large and contiguous, once the chunks of `place` authenticated."""
        with self.refusing():
            self.chunks.unseal_into(file, _bytes(into), offset=place.start)


class SealedTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor that is still in its package; a slice of its first dimension is one, too."""

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
        if function is _copy and args[1].fits(args[0]):
            args[1].rows.put(args[1].file, args[1].place, into=args[0])
            return args[0]
        args, kwargs = tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return function(*args, **kwargs)

    def fits(self, target: torch.Tensor) -> bool:
        """Say whether the bytes of this tensor are what `target` holds once it is copied there."""
        alike = (target.dtype, target.shape) == (self.dtype, self.shape)
        return alike and target.device.type == "cpu" and bool(target.is_contiguous())

    def whole(self) -> torch.Tensor:
        """Unseal all of it."""
        made = torch.empty(self.place.shape, dtype=self.dtype)
        self.rows.read(self.file, self.place, into=made)
        return made

    def take(self, rows: range) -> SealedTensor:
        """Return these rows of the first dimension, still sealed."""
        place = self.place
        each = (place.end - place.start) // max(1, place.shape[0])
        start = place.start + rows.start * each
        shape, end = (len(rows), *place.shape[1:]), start + len(rows) * each
        return SealedTensor(self.rows, self.file, replace(place, shape=shape, start=start, end=end))


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def _plain_rows(args: Sequence[Any]) -> range | None:
    """Return the rows a slice of `aten` wants, if it leaves none of them out but at the ends.

    A rank alone slices other dimensions, too, and takes all of them.
    """
    defaults: Sequence[Any] = (0, None, None, 1)
    dimension, start, stop, step = (*args[1:], *defaults[len(args) - 1 :])
    shape = args[0].shape
    wanted = range(*slice(start, stop).indices(shape[dimension]))
    if step == 1 and len(wanted) == shape[dimension]:
        return range(shape[0])
    return wanted if step == 1 and dimension == 0 else None
