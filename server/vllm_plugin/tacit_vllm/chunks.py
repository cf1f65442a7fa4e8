"""Spans of sealed files in, their plaintext in the buffers that are given, each chunk opened once.

A chunk that a span holds entirely is decrypted where it is wanted. A chunk that reaches over the
span's end is kept: the next tensor begins in it. So are a few chunks behind the span, begun early
to keep every core busy while the model does something else.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from attestation.manifest import Manifest, SealedFile
from attestation.weights import UnlockedModel, Unsealing, pages

AHEAD = 3
"""Chunks begun behind a span, so that two threads stay busy while vLLM looks for the next one."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A chunk on its way into memory of ours, which nobody reads before `unsealing` is done."""

    room: memoryview
    unsealing: Unsealing


class Chunks:
    """Reads spans for one thread, best in order; holds at most twice `ahead` and three chunks."""

    def __init__(self, model: UnlockedModel, *, ahead: int) -> None:
        self.unsealed = 0
        """Bytes of the chunks read and decrypted so far."""
        self._model = model
        self._ahead = ahead
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
        self._rooms: list[memoryview] = []

    @property
    def manifest(self) -> Manifest:
        """What the package says of itself."""
        return self._model.manifest

    def unseal_into(self, file: SealedFile, buffer: memoryview, *, offset: int = 0) -> None:
        """Fill `buffer` with the plaintext of `file` from byte `offset` on.

        Raises what `UnlockedModel.unseal_into` raises, and `buffer` is then all zeros.
        """
        self._let_go()
        size, end = self.manifest.chunk_size, offset + len(buffer)
        straight: list[Unsealing] = []
        parts: list[tuple[_Kept, memoryview, int]] = []
        try:
            for index, (skip, part) in self.manifest.parts(buffer, offset=offset):
                whole = len(part) == self.manifest.chunk_length(file, index)
                if whole and (file.id, index) not in self._kept:
                    self.unsealed += len(part)
                    straight.append(self._model.begin(file, part, offset=index * size))
                else:
                    parts.append((self._keep(file, index), part, skip))
            following = -(-end // size)
            for index in range(following, min(following + self._ahead, file.chunks)):
                self._keep(file, index)
            for kept, part, skip in parts:
                kept.unsealing.wait()
                _copy(kept.room[skip : skip + len(part)], part)
            for unsealing in straight:
                unsealing.wait()
        except BaseException:
            for unsealing in (*straight, *(kept.unsealing for kept in self._kept.values())):
                unsealing.abandon()
            self._kept.clear()
            buffer[:] = bytes(len(buffer))
            raise

    def _keep(self, file: SealedFile, index: int) -> _Kept:
        """Return the chunk, begun now if it is not kept yet."""
        place, size = (file.id, index), self.manifest.chunk_size
        if place not in self._kept:
            room = self._rooms.pop() if self._rooms else memoryview(pages(size))
            length = self.manifest.chunk_length(file, index)
            begun = self._model.begin(file, room[:length], offset=index * size)
            self._kept[place] = _Kept(room, begun)
            self.unsealed += length
        self._kept.move_to_end(place)
        return self._kept[place]

    def _let_go(self) -> None:
        """Free all but the last chunks; between two spans, for one span may need many of them."""
        while len(self._kept) > self._ahead + 1:
            _, oldest = self._kept.popitem(last=False)
            oldest.unsealing.abandon()
            self._rooms.append(oldest.room)


def _copy(source: memoryview, target: memoryview) -> None:
    """Copy without the GIL, which the threads that decrypt need between two chunks."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
