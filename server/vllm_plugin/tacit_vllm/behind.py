"""Spans of sealed files in, their plaintext in the buffers that are given once `finish` returns.

A tensor begins and ends inside chunks, and a chunk is plaintext to anybody only as a whole: here it
waits until each tensor that has a part of it has said where that goes, and is then decrypted into
all of these places at once. So nothing is copied, and every core decrypts while vLLM asks on.
"""

from __future__ import annotations

from collections import deque

from attestation.manifest import SealedFile
from attestation.weights import UnlockedModel, Unsealing

_MOST = 16
"""Chunks under way: enough for every thread, and a refusal is told while the load still runs."""


class Behind:
    """Fills buffers for one thread, which asks best in the order of the files."""

    def __init__(self, model: UnlockedModel) -> None:
        self.unsealed = 0
        """Bytes of the chunks read and decrypted so far, or about to be."""
        self._model = model
        self._file: SealedFile | None = None
        self._parts: dict[int, list[tuple[int, memoryview]]] = {}
        """By chunk of the file: the places that are known of its bytes, in order."""
        self._flight: deque[Unsealing] = deque()
        self._failed: BaseException | None = None

    def unseal_into(self, file: SealedFile, buffer: memoryview, *, offset: int = 0) -> None:
        """Have `buffer` filled with the plaintext of `file` from byte `offset` on.

        Nobody may read it before `finish` has returned. Raises for an earlier buffer what
        `UnlockedModel.unseal_into` raises, and then at every later call.
        """
        self._check()
        if file is not self._file:
            self._begin_all()
            self._file = file
        size, end = self._model.manifest.chunk_size, offset + len(buffer)
        for index in [index for index in self._parts if (index + 1) * size <= offset]:
            self._begin(index)
        for index in range(offset // size, -(-end // size)) if len(buffer) else ():
            first, start = index * size, max(offset, index * size)
            part = buffer[start - offset : min(end, first + size) - offset]
            self._place(index, start - first, part)

    def finish(self) -> None:
        """Return once every buffer is filled, or raise a refusal: then none is to be used."""
        self._check()
        self._begin_all()
        while self._flight:
            self._land()

    def _place(self, index: int, start: int, part: memoryview) -> None:
        known = self._parts.get(index, [])
        if known and start < known[-1][0] + len(known[-1][1]):  # asked for again: decrypted again
            self._begin(index)
        known = self._parts.setdefault(index, [])
        known.append((start, part))
        if start + len(part) == self._model.manifest.chunk_size:
            self._begin(index)

    def _begin_all(self) -> None:
        for index in list(self._parts):
            self._begin(index)

    def _begin(self, index: int) -> None:
        if self._file is None:
            raise TypeError("parts are of a file")
        while len(self._flight) >= _MOST:
            self._land()
        parts, size = self._parts.pop(index), self._model.manifest.chunk_size
        self._flight.append(self._model.begin_chunk(self._file, index, parts))
        self.unsealed += min(size, self._file.size - index * size)

    def _land(self) -> None:
        try:
            self._flight.popleft().wait()
        except BaseException as error:
            self._failed = error
            raise

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
