"""Keys, nonces and additional data of sealed chunks: what is encrypted how, and nothing else.

1. A package has a `generation`: 32 random bytes, new on every sealing run.
2. file key = HKDF-SHA256(data key, salt=generation, info="tacit/v1/sealed/file" ‖ lp(u32 file id)).
3. nonce of chunk i = four zero bytes ‖ u64 i. A file key encrypts one file once, so none repeats.
4. additional data = "tacit/v1/sealed/chunk" ‖ lp(generation, u32 file id, u64 index, u64 count,
   u64 file size): a chunk that is moved, cut off, spliced or older does not authenticate.
5. AES-256-GCM with a tag of 16 bytes, kept in a table apart, so that ciphertext byte i is
   plaintext byte i.
6. commitment = HKDF-SHA256(data key, salt=generation, info="tacit/v1/sealed/commit"), since GCM
   does not commit to its key.

Integers are big-endian; lp is `codec.length_prefixed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.utils import Buffer

from attestation.codec import length_prefixed
from attestation.confidential import DataKey
from attestation.errors import NotAuthentic

TAG = 16
"""Length of a chunk's tag, in bytes."""

MIN_CHUNK = 1 << 20
MAX_CHUNK = 1 << 24
"""Chunks are a power of two between these, in bytes; calls this long release the GIL."""

_FILE = b"tacit/v1/sealed/file"
_COMMIT = b"tacit/v1/sealed/commit"
_CHUNK = b"tacit/v1/sealed/chunk"


def chunk_count(size: int, *, chunk_size: int) -> int:
    """Return how many chunks a file of `size` bytes has; an empty file has none."""
    return -(-size // chunk_size)


def commitment(key: DataKey, *, generation: bytes) -> bytes:
    """Return the 32 bytes that say which data key a package was sealed with."""
    return _derive(key, generation=generation, info=_COMMIT)


@dataclass(frozen=True, slots=True)
class FileShape:
    """Everything about one file that its chunks authenticate."""

    generation: bytes
    file: int
    count: int
    size: int

    def chunk(self, index: int) -> bytes:
        """Return the additional data of chunk `index`."""
        return _CHUNK + length_prefixed(
            self.generation,
            self.file.to_bytes(4, "big"),
            index.to_bytes(8, "big"),
            self.count.to_bytes(8, "big"),
            self.size.to_bytes(8, "big"),
        )


class FileCipher:
    """Seals and opens the chunks of one file; safe to use from many threads."""

    def __init__(self, key: DataKey, *, shape: FileShape) -> None:
        info = _FILE + length_prefixed(shape.file.to_bytes(4, "big"))
        own = _derive(key, generation=shape.generation, info=info)
        self._aead, self._aes = AESGCM(own), AES(own)
        self._shape = shape

    def seal_into(self, index: int, chunk: Buffer, *, out: Buffer) -> None:
        """Encrypt `chunk` into `out`, which has room for exactly the chunk and its tag."""
        self._aead.encrypt_into(_nonce(index), chunk, self._shape.chunk(index), out)

    def open_into(
        self,
        index: int,
        sealed: Iterable[memoryview],
        tag: bytes,
        *,
        parts: Iterable[memoryview],
    ) -> None:
        """Decrypt a chunk, which comes in pieces, into `parts`, together as long, or wipe them.

        A piece is used up before the next one is asked for. Raises `NotAuthentic` `weights-chunk`
        and what asking for a piece raises: plaintext is written before the tag is compared, so
        nobody may see `parts` until this returns.
        """
        opening = Cipher(self._aes, GCM(_nonce(index), tag, TAG)).decryptor()
        opening.authenticate_additional_data(self._shape.chunk(index))
        parts = tuple(parts)
        try:
            for piece, room in _pairs(sealed, parts):
                opening.update_into(piece, room)
            opening.finalize()
        except BaseException as error:
            for part in parts:
                part[:] = bytes(len(part))
            if not isinstance(error, InvalidTag):
                raise
            why = f"file {self._shape.file}, chunk {index} of {self._shape.count}"
            raise NotAuthentic("weights-chunk", why) from None


def _pairs(
    pieces: Iterable[memoryview], rooms: Iterable[memoryview]
) -> Iterator[tuple[memoryview, memoryview]]:
    """Cut two rows of buffers, the second one as long as the first or longer, at the same bytes."""
    left = iter(rooms)
    room = memoryview(b"")
    for piece in pieces:
        at = 0
        while at < len(piece):
            while not room:
                room = next(left)
            step = min(len(piece) - at, len(room))
            yield piece[at : at + step], room[:step]
            at, room = at + step, room[step:]


def _nonce(index: int) -> bytes:
    return bytes(4) + index.to_bytes(8, "big")


def _derive(key: DataKey, *, generation: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=generation, info=info).derive(key.reveal())
