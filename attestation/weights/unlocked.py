"""Unseal an opened package: any span of any file into a buffer, chunk by chunk, many at a time.

Each byte is fetched once, a piece of a chunk at a time, into a private slot, then decrypted from
there: the host may share the pages a file is mapped from, and must not change them between two
looks. Reading and decrypting release the GIL, so that as many run at once as there are workers.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Self

from attestation.confidential import DataKey
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.manifest import Manifest, Part, Role, SealedFile
from attestation.sealing import TAG, FileCipher, FileShape
from attestation.weights.pages import pages

SMALL_ROLES: frozenset[Role] = frozenset({"config", "tokenizer", "template"})
"""Roles that an engine reads as ordinary files."""

PIECE = 1 << 20
"""Bytes fetched, then decrypted, at a time: they are still in a core's own cache by then."""

_MAX_SMALL = 256 * 1024 * 1024
_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the chunks of one file come from, and by which key."""

    file: SealedFile
    descriptor: int
    cipher: FileCipher
    tags: memoryview


class Unsealing:
    """Chunks on their way into buffers, which nobody may read before `wait` returns."""

    def __init__(self, chunks: list[Future[None]], *, buffers: Sequence[memoryview]) -> None:
        self._chunks = chunks
        self._buffers = buffers

    def wait(self) -> None:
        """Return once every chunk authenticated, or wipe the buffers and raise a refusal."""
        wait(self._chunks)
        failed = next((e for chunk in self._chunks if (e := chunk.exception())), None)
        if failed is not None:
            for buffer in self._buffers:
                buffer[:] = bytes(len(buffer))
            raise failed

    def abandon(self) -> None:
        """Stop what has not begun and wait for the rest, so that the buffers may be let go."""
        for chunk in self._chunks:
            chunk.cancel()
        wait(self._chunks)


class UnlockedModel:
    """A package and its key. Close it, or use it in `with`, to stop its threads."""

    def __init__(
        self, directory: Path, manifest: Manifest, tags: bytes, *, dek: DataKey, workers: int
    ) -> None:
        self.manifest = manifest
        self._directory = directory
        self._tags = memoryview(tags)
        self._dek = dek
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="unseal")
        self._slots: SimpleQueue[tuple[memoryview, memoryview]] = SimpleQueue()
        for _ in range(workers):
            self._slots.put((memoryview(pages(PIECE)), memoryview(pages(PIECE))))
        self._open: dict[int, _Source] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads, close the files and let go of every file key."""
        self._pool.shutdown(cancel_futures=True)
        with self._lock:
            for source in self._open.values():
                os.close(source.descriptor)
            self._open.clear()

    def unseal_into(self, file: SealedFile, buffer: memoryview, *, offset: int = 0) -> None:
        """Fill `buffer` with the plaintext of `file` from byte `offset` on.

        Raises `NotAuthentic` ("weights-chunk"), `Malformed` ("weights-size") or `Undecidable`
        ("weights-unreadable"), and `buffer` is then all zeros.
        """
        self.begin(file, buffer, offset=offset).wait()

    def begin(self, file: SealedFile, buffer: memoryview, *, offset: int = 0) -> Unsealing:
        """Start what `unseal_into` does, so that it runs while earlier buffers are used."""
        if offset < 0 or offset + len(buffer) > file.size:
            raise ValueError(f"{len(buffer)} bytes from {offset} of {file.size}")
        source = self._source(file)
        jobs = [
            self._pool.submit(self._chunk, source, index, (part,))
            for index, part in self.manifest.parts(buffer, offset=offset)
        ]
        return Unsealing(jobs, buffers=(buffer,))

    def begin_chunk(self, file: SealedFile, index: int, parts: Sequence[Part]) -> Unsealing:
        """Start to unseal chunk `index` of `file` into the places of its `parts`.

        They are in order and do not overlap; what lies between them is decrypted for its tag alone.
        """
        ends = [0, *(start + len(part) for start, part in parts)]
        inside = ends[-1] <= self.manifest.chunk_length(file, index)
        if not inside or any(start < end for end, (start, _) in zip(ends, parts, strict=False)):
            raise ValueError(f"the parts are not in order, or not in chunk {index}")
        job = self._pool.submit(self._chunk, self._source(file), index, parts)
        return Unsealing([job], buffers=[part for _, part in parts])

    def _chunk(self, source: _Source, index: int, parts: Sequence[Part]) -> None:
        """Put bytes of chunk `index` into each of `parts`; they are nobody's until it returns."""
        length = self.manifest.chunk_length(source.file, index)
        fetched, spare = slot = self._slots.get()
        try:
            tag = bytes(source.tags[TAG * index : TAG * (index + 1)])
            places, at = [], 0
            for start, part in (*parts, (length, spare[:0])):
                places += [*_cut(spare, start - at), part]
                at = start + len(part)
            begin = index * self.manifest.chunk_size
            sealed = _pieces(source, fetched, begin=begin, length=length)
            source.cipher.open_into(index, sealed, tag, parts=places)
        finally:
            self._slots.put(slot)

    def _source(self, file: SealedFile) -> _Source:
        with self._lock:
            if file.id not in self._open:
                shape = FileShape(self.manifest.generation, file.id, file.chunks, file.size)
                first, last = self.manifest.tags_span(file)
                self._open[file.id] = _Source(
                    file,
                    open_regular(self._directory / file.sealed_name, what=file.sealed_name),
                    FileCipher(self._dek, shape=shape),
                    self._tags[first:last],
                )
            return self._open[file.id]

    def unseal_small(self, into: Path, *, roles: frozenset[Role] = SMALL_ROLES) -> tuple[Path, ...]:
        """Write the files of `roles` below `into`, a new or empty directory, for the owner alone.

        Nothing is written before all of them are authentic. The caller sees to it that `into` is
        memory (`is_memory_backed`); here only its emptiness is checked ("unseal-target").
        """
        wanted = [file for file in self.manifest.files if file.role in roles]
        if sum(file.size for file in wanted) > _MAX_SMALL:
            raise Malformed("too-large", f"small files of more than {_MAX_SMALL} bytes")
        contents = [self._whole(file) for file in wanted]
        written = []
        try:
            into.mkdir(mode=0o700, exist_ok=True)
            if any(into.iterdir()):
                raise ConfigError("unseal-target", f"{into} is not empty")
            for file, content in zip(wanted, contents, strict=True):
                path = into / file.path
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
                    stream.write(content)
                written.append(path)
        except OSError as error:
            raise ConfigError("unseal-target", f"{into}: {error.strerror}") from None
        return tuple(written)

    def _whole(self, file: SealedFile) -> bytearray:
        content = bytearray(file.size)
        self.unseal_into(file, memoryview(content))
        _check_content(file, hashlib.sha256(content).hexdigest())
        return content

    def verify(self, *, progress: Callable[[int], None] = lambda _: None) -> None:
        """Decrypt every chunk and compare every file with its signed SHA-256; keep nothing."""
        largest = max(file.size for file in self.manifest.files)
        window = min(8 * self.manifest.chunk_size, largest)
        rooms = memoryview(pages(window)), memoryview(pages(window))
        for file in self.manifest.files:
            content = hashlib.sha256()
            starts = range(0, file.size, window) if file.size else ()
            spans = [
                (start, rooms[turn % 2][: min(window, file.size - start)])
                for turn, start in enumerate(starts)
            ]
            ahead = [self.begin(file, room, offset=start) for start, room in spans[:1]]
            for turn, (_, room) in enumerate(spans):
                ahead.pop().wait()
                if turn + 1 < len(spans):
                    start, other = spans[turn + 1]
                    ahead.append(self.begin(file, other, offset=start))
                content.update(room)
                progress(len(room))
            _check_content(file, content.hexdigest())


def is_memory_backed(path: Path, *, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Tell whether `path` lies in tmpfs or ramfs; it does not see whether there is swap."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        fields, _, rest = line.partition(" - ")  # proc(5): the file system type is the first after
        if fields.split()[2] == number:
            return rest.split()[0] in _MEMORY
    return False


def _check_content(file: SealedFile, found: str) -> None:
    if not hmac.compare_digest(found, file.sha256):
        raise NotAuthentic("weights-content", f"the content of file {file.id} hashes to {found}")


def open_regular(path: Path, *, what: str) -> int:
    """Open a regular file for reading; a link, pipe or device in its place is refused unread."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise Malformed("weights-missing-file", f"{what} is not there") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Malformed("weights-missing-file", f"{what} is not a regular file") from None
        raise Undecidable("weights-unreadable", f"{what}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Malformed("weights-missing-file", f"{what} is not a regular file")
    return descriptor


def _pieces(source: _Source, room: memoryview, *, begin: int, length: int) -> Iterator[memoryview]:
    """Fetch bytes of a file from `begin` on, piece by piece, each into the same room."""
    for piece in _cut(room, length):
        _fetch(source, piece, at=begin)
        begin += len(piece)
        yield piece


def _cut(room: memoryview, length: int) -> Iterator[memoryview]:
    """Return the room again and again until it was `length` bytes in all."""
    for start in range(0, length, len(room)):
        yield room[: length - start]


def _fetch(source: _Source, into: memoryview, *, at: int) -> None:
    done, file = 0, source.file
    while done < len(into):
        try:
            got = os.preadv(source.descriptor, [into[done:]], at + done)
        except OSError as error:
            raise Undecidable("weights-unreadable", f"file {file.id}: {error.strerror}") from None
        if got == 0:
            raise Malformed("weights-size", f"file {file.id} ends at byte {at + done}")
        done += got
