"""What unsealing cannot do without, alone: each byte is fetched once, and decrypted once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from queue import SimpleQueue

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.weights import pages
from attestation.weights.unlocked import PIECE

_HOT = 1 << 18
"""Bytes that stay in a core's own cache."""

_SHARE = 4
"""Pieces that a thread takes at a time: a chunk."""


class Steps:
    """Reads a file out of the page cache, or decrypts as much as it has in the cache of a core."""

    def __init__(self, sealed: Path) -> None:
        self._descriptor = os.open(sealed, os.O_RDONLY)
        self._starts = range(0, sealed.stat().st_size // PIECE * PIECE, PIECE)
        self._cipher = AESGCM(bytes(32))
        self._sealed = self._cipher.encrypt(bytes(12), bytes(_HOT), b"")
        self._rooms: SimpleQueue[tuple[mmap, bytearray]] = SimpleQueue()
        for _ in range(2):
            self._rooms.put((pages(PIECE), bytearray(_HOT)))

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def read(self) -> None:
        """Fetch all of the file into memory that is written over and over."""
        self._each(self._starts, read=True)

    def decrypt(self) -> None:
        """Have the library decrypt as many bytes."""
        self._each(self._starts, decrypt=True)

    def both(self) -> None:
        """Do both, by two threads, each of which takes the next chunk when it is done with one."""
        shares = [self._starts[at : at + _SHARE] for at in range(0, len(self._starts), _SHARE)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda share: self._each(share, read=True, decrypt=True), shares))

    def _each(self, starts: range, *, read: bool = False, decrypt: bool = False) -> None:
        staging, room = rooms = self._rooms.get()
        for at in starts:
            if read:
                os.preadv(self._descriptor, [staging], at)
            for _ in range(PIECE // _HOT if decrypt else 0):
                self._cipher.decrypt_into(bytes(12), self._sealed, b"", room)
        self._rooms.put(rooms)
