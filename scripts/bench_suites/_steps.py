"""What unsealing cannot do without, alone: each byte is fetched once, and decrypted once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.weights import pages
from attestation.weights.unlocked import PIECE

_HOT = 1 << 18
"""Bytes that stay in a core's own cache."""


class Steps:
    """Reads a file out of the page cache, or decrypts as much as it has in the cache of a core."""

    def __init__(self, sealed: Path) -> None:
        self._descriptor = os.open(sealed, os.O_RDONLY)
        self._starts = range(0, sealed.stat().st_size // PIECE * PIECE, PIECE)
        self._staging = pages(PIECE), pages(PIECE)
        self._cipher = AESGCM(bytes(32))
        self._sealed = self._cipher.encrypt(bytes(12), bytes(_HOT), b"")
        self._rooms = bytearray(_HOT), bytearray(_HOT)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def read(self) -> None:
        """Fetch all of the file into memory that is written over and over."""
        self._read(0, 1)

    def decrypt(self) -> None:
        """Have the library decrypt as many bytes."""
        self._decrypt(0, 1)

    def both(self) -> None:
        """Do the one, then the other, by two threads, each with half of the file."""

        def half(turn: int) -> None:
            self._read(turn, 2)
            self._decrypt(turn, 2)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(half, range(2)))

    def _read(self, turn: int, of: int) -> None:
        for at in self._starts[turn::of]:
            os.preadv(self._descriptor, [self._staging[turn]], at)

    def _decrypt(self, turn: int, of: int) -> None:
        for _ in range(len(self._starts[turn::of]) * (PIECE // _HOT)):
            self._cipher.decrypt_into(bytes(12), self._sealed, b"", self._rooms[turn])
