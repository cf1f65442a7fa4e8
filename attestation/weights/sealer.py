"""Seal files: plaintext of a directory or of another package in, ciphertext and manifest out.

Every chunk is read once: hashed for the manifest by the thread that reads its file, encrypted and
written by a pool. The manifest appears last, under its name in one step, so that a package that was
cut short cannot be opened.

A resumed run takes the files that are done from its journal and encrypts the others again, by the
same keys and nonces: where ciphertext lies already, the new one must be the same, or nothing is
written. A chunk whose source changed in between can thus not be encrypted twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import DataKey
from attestation.errors import ConfigError, Refusal
from attestation.golden import Golden
from attestation.manifest import MANIFEST, TAGS, Manifest, SealedFile, issue
from attestation.regular import sync_directory
from attestation.sealing import TAG, FileCipher, FileShape, chunk_count, commitment
from attestation.weights.journal import Done, Head, Journal, fingerprint
from attestation.weights.pages import pages
from attestation.weights.plaintext import Plaintext
from attestation.weights.source import inventory

DEFAULT_CHUNK = 4 * 1024 * 1024

Progress = Callable[[int], None]
"""Told how many more bytes are done; may be called from several threads."""


def begin(
    out: Path,
    files: Sequence[Plaintext],
    *,
    kek: str,
    wrapped: str,
    chunk_size: int = DEFAULT_CHUNK,
) -> Journal:
    """Make the new or empty directory `out` and the journal of a run that seals `files` into it.

    `wrapped` is the run's data key, wrapped by the KEK of id `kek`: what a resumed run opens.
    Raises `ConfigError` ("seal-output").
    """
    head = Head(
        version=1,
        sources=fingerprint(files),
        generation=os.urandom(32).hex(),
        chunk_size=chunk_size,
        kek=kek,
        wrapped=wrapped,
    )
    try:
        out.mkdir(exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError("seal-output", f"{out} is not empty")
        return Journal.begin(out, head=head)
    except OSError as error:
        raise ConfigError("seal-output", f"{out}: {error.strerror}") from None


def seal(
    model_dir: Path,
    out: Path,
    *,
    dek: DataKey,
    name: str,
    version: int,
    key_uri: str,
    signer: Ed25519PrivateKey,
    chunk_size: int = DEFAULT_CHUNK,
    workers: int = 2,
    progress: Progress = lambda _: None,
    golden: Golden | None = None,
) -> Manifest:
    """Seal the directory `model_dir` into `out` in one run that nobody resumes.

    Raises `ConfigError` with a `seal-…` code, and leaves nothing behind when it does.
    """
    files = inventory(model_dir).files
    check_apart(out, sources=model_dir)
    journal = begin(out, files, kek="", wrapped="", chunk_size=chunk_size)
    try:
        return seal_files(
            out,
            files,
            journal=journal,
            dek=dek,
            name=name,
            version=version,
            key_uri=key_uri,
            signer=signer,
            workers=workers,
            progress=progress,
            golden=golden,
        )
    except BaseException:
        _clear(out)
        raise


def seal_files(
    out: Path,
    files: Sequence[Plaintext],
    *,
    journal: Journal,
    dek: DataKey,
    name: str,
    version: int,
    key_uri: str,
    signer: Ed25519PrivateKey,
    source: str | None = None,
    workers: int = 2,
    progress: Progress = lambda _: None,
    golden: Golden | None = None,
    deliver: Callable[[Manifest], None] = lambda _: None,
) -> Manifest:
    """Write the sealed package of `files` into `out`, where `journal` was begun or resumed.

    `deliver` is called before the manifest appears, so that the wrapped key is kept first: a
    package without its key would be lost. When the machine fails (disk full, interrupted) what is
    done stays, and a run that resumes goes on from there. When the files fail, raises
    `ConfigError` with a `seal-…` code or a `Refusal`, and leaves nothing.
    """
    journal.head.matches(files)
    generation, chunk_size = bytes.fromhex(journal.head.generation), journal.head.chunk_size
    run = _Run(out, dek, journal, workers=workers, progress=progress)
    try:
        sealed = run.seal(files)
        envelope = issue(
            [done.entry for done in sealed],
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
        _write(out / TAGS, b"".join(done.tags for done in sealed))
        _write(out / f".{MANIFEST}", envelope)
        manifest = Manifest.open(envelope, signer=signer.public_key())
        deliver(manifest)
        (out / f".{MANIFEST}").rename(out / MANIFEST)
        journal.end()
        sync_directory(out)
    except OSError as error:
        why = f"{out}: {error.strerror}; what is done stays there for --resume"
        raise ConfigError("seal-output", why) from None
    except (ConfigError, Refusal) as failed:
        if failed.code != "file-unwritable":  # the key's file: there may be room for it later
            _clear(out)
        raise
    return manifest


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
    held: int
    """Bytes an earlier run left, in a file that it did not finish."""


class _Run:
    """One sealing run: its key material, its threads and the slots that chunks pass through."""

    def __init__(
        self, out: Path, dek: DataKey, journal: Journal, *, workers: int, progress: Progress
    ) -> None:
        self._out = out
        self._dek = dek
        self._journal = journal
        self._generation = bytes.fromhex(journal.head.generation)
        self._chunk_size = journal.head.chunk_size
        self._workers = workers
        self._progress = progress
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        for _ in range(2 * workers):
            room = pages(self._chunk_size), pages(self._chunk_size + TAG)
            self._slots.put(_Slot(memoryview(room[0]), memoryview(room[1])))

    def seal(self, files: Sequence[Plaintext]) -> list[Done]:
        """Seal all `files` that are not done; return every file's entry and tags, in order."""
        with (
            ThreadPoolExecutor(self._workers) as encryptors,
            ThreadPoolExecutor(self._workers) as readers,
        ):
            jobs = [
                readers.submit(self._file, number, file, encryptors)
                for number, file in enumerate(files)
            ]
            try:
                return [job.result() for job in jobs]
            except BaseException:
                readers.shutdown(cancel_futures=True)
                raise

    def _file(self, number: int, file: Plaintext, encryptors: ThreadPoolExecutor) -> Done:
        target = self._out / f"{number:05d}.sealed"
        if number in self._journal.done and target.stat().st_size == file.size:
            self._progress(file.size)
            return self._journal.done[number]
        count = chunk_count(file.size, chunk_size=self._chunk_size)
        shape = FileShape(self._generation, number, count, file.size)
        cipher = FileCipher(self._dek, shape=shape)
        tags = bytearray(TAG * count)
        content = hashlib.sha256()
        writes: list[Future[None]] = []
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with file.open() as reading, os.fdopen(descriptor, "r+b", buffering=0):
            to = _Target(cipher, tags, descriptor, os.fstat(descriptor).st_size)
            try:
                for index in range(count):
                    slot = self._slots.get()
                    start = index * self._chunk_size
                    length = min(self._chunk_size, file.size - start)
                    try:
                        reading.read_into(slot.plain[:length], offset=start)
                    except BaseException:
                        self._slots.put(slot)
                        raise
                    content.update(slot.plain[:length])
                    writes.append(encryptors.submit(self._chunk, index, slot, to, length=length))
            finally:
                wait(writes)  # they write to the descriptor
            for write in writes:
                write.result()
            reading.settle(sha256=content.hexdigest())
            os.fsync(descriptor)
        entry = SealedFile(
            id=number,
            role=file.role,
            path=file.path,
            size=file.size,
            chunks=count,
            tags_sha256=hashlib.sha256(tags).hexdigest(),
            sha256=content.hexdigest(),
        )
        done = Done(entry, bytes(tags))
        self._journal.append(done)
        return done

    def _chunk(self, index: int, slot: _Slot, to: _Target, *, length: int) -> None:
        try:
            at, out = index * self._chunk_size, slot.sealed[: length + TAG]
            to.cipher.seal_into(index, slot.plain[:length], out=out)
            to.tags[TAG * index : TAG * (index + 1)] = out[length:]
            if at < to.held:
                # What was not written reads as zeros; anything else must be this very ciphertext.
                kept = os.pread(to.descriptor, length, at).rstrip(b"\0")
                if out[: len(kept)] != kept:
                    raise ConfigError("seal-resume", f"chunk {index} of a file changed")
            written = 0
            while written < length:
                written += os.pwrite(to.descriptor, out[written:length], at + written)
        finally:
            self._slots.put(slot)
        self._progress(length)


def _clear(out: Path) -> None:
    for path in out.iterdir():  # everything here is the run's: it began in an empty directory
        with suppress(OSError):
            path.unlink()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def check_apart(out: Path, *, sources: Path) -> None:
    """Raise `ConfigError` ("seal-output") if one of the two directories lies in the other."""
    inside, around = out.resolve(), sources.resolve()
    if inside.is_relative_to(around) or around.is_relative_to(inside):
        raise ConfigError("seal-output", f"{out} and {sources} overlap")
