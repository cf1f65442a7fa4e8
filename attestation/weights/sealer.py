"""Seal a model's directory: plaintext files in, ciphertext, tags and a signed manifest out.

Every chunk is read once: hashed for the manifest by the thread that reads its file, encrypted and
written by a pool. The manifest appears last, under its name in one step, so that a package that was
cut short cannot be opened. A run is never resumed: a chunk encrypted again after its source changed
would reuse key and nonce.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import DataKey
from attestation.errors import ConfigError
from attestation.golden import Golden
from attestation.manifest import MANIFEST, TAGS, Manifest, SealedFile, issue
from attestation.sealing import TAG, FileCipher, FileShape, chunk_count, commitment
from attestation.weights.source import Inventory, SourceFile, inventory

DEFAULT_CHUNK = 4 * 1024 * 1024

Progress = Callable[[int], None]
"""Told how many more bytes are done; may be called from several threads."""


def seal(
    model_dir: Path,
    out: Path,
    *,
    dek: DataKey,
    name: str,
    version: int,
    key_uri: str,
    signer: Ed25519PrivateKey,
    source: str | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    workers: int = 2,
    progress: Progress = lambda _: None,
    listed: Inventory | None = None,
    golden: Golden | None = None,
) -> Manifest:
    """Write the sealed package of `model_dir` into the new or empty directory `out`.

    `listed` spares a second listing when the caller already took it. Raises `ConfigError` with a
    `seal-…` code, and leaves nothing behind when it does; `out` must not hold anything before.
    """
    files = (listed or inventory(model_dir)).files
    _claim(out, model_dir=model_dir)
    generation = os.urandom(32)
    run = _Run(out, dek, generation, chunk_size=chunk_size, workers=workers, progress=progress)
    try:
        entries, tags = run.seal(files)
        envelope = issue(
            entries,
            model=name,
            version=version,
            source=source,
            generation=generation,
            chunk_size=chunk_size,
            key=key_uri,
            key_commitment=commitment(dek, generation=generation),
            signer=signer,
            golden=golden,
        )
        _write(out / TAGS, tags)
        _write(out / f".{MANIFEST}", envelope)
        (out / f".{MANIFEST}").rename(out / MANIFEST)
        _sync_directory(out)
    except BaseException as error:
        for path in out.iterdir():  # everything here is ours: it was empty
            with suppress(OSError):
                path.unlink()
        if isinstance(error, OSError):
            raise ConfigError("seal-output", f"{out}: {error.strerror}") from None
        raise
    return Manifest.open(envelope, signer=signer.public_key())


@dataclass(frozen=True, slots=True)
class _Slot:
    plain: memoryview
    sealed: memoryview


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the chunks of one file go, and by which key."""

    cipher: FileCipher
    tags: bytearray
    descriptor: int


class _Run:
    """One sealing run: its key material, its threads and the slots that chunks pass through."""

    def __init__(
        self,
        out: Path,
        dek: DataKey,
        generation: bytes,
        *,
        chunk_size: int,
        workers: int,
        progress: Progress,
    ) -> None:
        self._out = out
        self._dek = dek
        self._generation = generation
        self._chunk_size = chunk_size
        self._workers = workers
        self._progress = progress
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        for _ in range(2 * workers):
            room = bytearray(chunk_size), bytearray(chunk_size + TAG)
            self._slots.put(_Slot(memoryview(room[0]), memoryview(room[1])))

    def seal(self, files: tuple[SourceFile, ...]) -> tuple[list[SealedFile], bytes]:
        """Seal all `files`; return their entries and the tag table."""
        with (
            ThreadPoolExecutor(self._workers) as encryptors,
            ThreadPoolExecutor(self._workers) as readers,
        ):
            jobs = [
                readers.submit(self._file, number, file, encryptors)
                for number, file in enumerate(files)
            ]
            try:
                done = [job.result() for job in jobs]
            except BaseException:
                readers.shutdown(cancel_futures=True)
                raise
        return [entry for entry, _ in done], b"".join(tags for _, tags in done)

    def _file(
        self, number: int, file: SourceFile, encryptors: ThreadPoolExecutor
    ) -> tuple[SealedFile, bytes]:
        count = chunk_count(file.size, chunk_size=self._chunk_size)
        shape = FileShape(self._generation, number, count, file.size)
        cipher = FileCipher(self._dek, shape=shape)
        tags = bytearray(TAG * count)
        content = hashlib.sha256()
        writes: list[Future[None]] = []
        target = self._out / f"{number:05d}.sealed"
        with file.location.open("rb", buffering=0) as stream, target.open("xb", 0) as sealed:
            for index in range(count):
                slot = self._slots.get()
                length = min(self._chunk_size, file.size - index * self._chunk_size)
                plain = slot.plain[:length]
                if _read_full(stream.fileno(), plain) != length:
                    self._slots.put(slot)
                    raise ConfigError("seal-changed", f"{file.path!r} shrank while it was read")
                content.update(plain)
                to = _Target(cipher, tags, sealed.fileno())
                writes.append(encryptors.submit(self._chunk, index, slot, to, length=length))
            for write in writes:
                write.result()
            after = os.fstat(stream.fileno())
            if (after.st_size, after.st_mtime_ns) != (file.size, file.modified_ns):
                raise ConfigError("seal-changed", f"{file.path!r} was written to while it was read")
            os.fsync(sealed.fileno())
        entry = SealedFile(
            id=number,
            role=file.role,
            path=file.path,
            size=file.size,
            chunks=count,
            tags_sha256=hashlib.sha256(tags).hexdigest(),
            sha256=content.hexdigest(),
        )
        return entry, bytes(tags)

    def _chunk(self, index: int, slot: _Slot, to: _Target, *, length: int) -> None:
        try:
            out = slot.sealed[: length + TAG]
            to.cipher.seal_into(index, slot.plain[:length], out=out)
            to.tags[TAG * index : TAG * (index + 1)] = out[length:]
            written = 0
            while written < length:
                at = index * self._chunk_size + written
                written += os.pwrite(to.descriptor, out[written:length], at)
        finally:
            self._slots.put(slot)
        self._progress(length)


def _read_full(descriptor: int, into: memoryview) -> int:
    done = 0
    while done < len(into):
        got = os.readv(descriptor, [into[done:]])
        if got == 0:
            break
        done += got
    return done


def _claim(out: Path, *, model_dir: Path) -> None:
    inside, around = out.resolve(), model_dir.resolve()
    if inside.is_relative_to(around) or around.is_relative_to(inside):
        raise ConfigError("seal-output", f"{out} and {model_dir} overlap")
    try:
        out.mkdir(exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError("seal-output", f"{out} is not empty")
    except OSError as error:
        raise ConfigError("seal-output", f"{out}: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
