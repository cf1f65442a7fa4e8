"""Spans of sealed files in, their plaintext in the buffers that are given once `finish` returns.

A tensor begins and ends inside chunks, and a chunk is plaintext to anybody only as a whole: here it
waits until each tensor that has a part of it has said where that goes, and is then decrypted into
all of these places at once. So nothing is copied, and every core decrypts while vLLM asks on.
"""

from __future__ import annotations

from collections import deque

from attestation.manifest import Part, SealedFile
from attestation.weights import UnlockedModel, Unsealing

_MOST = 16
"""Chunks under way: enough for every thread, and a refusal is told while the load still runs."""


class Behind:
    """Fills buffers for one thread, which asks best in the order of the files."""

    def __init__(self, model: UnlockedModel) -> None:
        self.unsealed = 0
        """Bytes of the chunks read and decrypted so far, or about to be."""
        self._model = model
        self._parts: dict[tuple[SealedFile, int], list[Part]] = {}
        """By chunk: the places that are known of its bytes, in order."""
        self._flight: deque[Unsealing] = deque()
        self._failed: BaseException | None = None

    def unseal_into(self, file: SealedFile, buffer: memoryview, *, offset: int = 0) -> None:
        """Have `buffer` filled with the plaintext of `file` from byte `offset` on.

        Nobody may read it before `finish` has returned. Raises for an earlier buffer what
        `UnlockedModel.unseal_into` raises, and then at every later call.
        """
        self._check()
        size = self._model.manifest.chunk_size
        for one, index in list(self._parts):
            if one is not file or (index + 1) * size <= offset:
                self._begin(one, index)
        for index, part in self._model.manifest.parts(buffer, offset=offset):
            self._place(file, index, part)

    def finish(self) -> None:
        """Return once every buffer is filled, or raise a refusal: then none is to be used."""
        self._check()
        for file, index in list(self._parts):
            self._begin(file, index)
        while self._flight:
            self._land()

    def _place(self, file: SealedFile, index: int, part: Part) -> None:
        start, end = part[0], part[0] + len(part[1])
        known = self._parts.get((file, index), [])
        if known and start < known[-1][0] + len(known[-1][1]):  # asked for again: decrypted again
            self._begin(file, index)
        self._parts.setdefault((file, index), []).append(part)
        if end == self._model.manifest.chunk_size:
            self._begin(file, index)

    def _begin(self, file: SealedFile, index: int) -> None:
        while len(self._flight) >= _MOST:
            self._land()
        self._flight.append(self._model.begin_chunk(file, index, self._parts.pop((file, index))))
        self.unsealed += self._model.manifest.chunk_length(file, index)

    def _land(self) -> None:
        try:
            self._flight.popleft().wait()
        except BaseException as error:
            self._failed = error
            raise

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
