"""The journal of a sealing run: what was begun and which files are done, so that it can be resumed.

One JSON document a line in `OUT/sealing.jsonl`, which is gone when the package is complete. The
first line holds the run's generation and its data key, wrapped by the KEK. A line that a crash cut
short is the last one, and is forgotten.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal, Self

from pydantic import Field

from attestation.codec import (
    Document,
    b64,
    canonical_json,
    length_prefixed,
    parse_document,
    unb64,
)
from attestation.errors import ConfigError, Malformed
from attestation.manifest import Hex32, Role, SealedFile
from attestation.regular import open_regular
from attestation.weights.plaintext import Plaintext

JOURNAL = "sealing.jsonl"
_MAX_LINE = 64 * 1024 * 1024


class Head(Document):
    """What a run was begun with."""

    version: Literal[1]
    sources: Hex32
    """Over names, sizes and stamps of all files: a run goes on only over what it began with."""
    generation: Hex32
    chunk_size: int
    kek: str
    wrapped: str
    """The data key, wrapped by the KEK as `attestation.broker.keyfile` wraps keys of runs."""

    def matches(self, files: Sequence[Plaintext]) -> None:
        """Raise `ConfigError` ("seal-resume") unless `files` are those the run began with."""
        if self.sources != fingerprint(files):
            raise ConfigError("seal-resume", "the files are not those that sealing began with")


class _Done(Document):
    id: Annotated[int, Field(ge=0)]
    role: Role
    path: str
    size: int
    chunks: int
    tags_sha256: Hex32
    sha256: Hex32
    tags: str


@dataclass(frozen=True, slots=True)
class Done:
    """A file that is sealed and on disk: its entry of the manifest, and its tags."""

    entry: SealedFile
    tags: bytes


class Journal:
    """An open journal; `append` is safe from several threads."""

    def __init__(self, path: Path, head: Head, done: Sequence[Done]) -> None:
        self.head = head
        self.done = {each.entry.id: each for each in done}
        self._path = path
        self._lock = Lock()

    @classmethod
    def begin(cls, out: Path, *, head: Head) -> Self:
        """Write the head of a new run."""
        journal = cls(out / JOURNAL, head, ())
        journal._append(canonical_json(head.model_dump(mode="json")), flags=os.O_CREAT | os.O_EXCL)
        return journal

    @classmethod
    def resume(cls, out: Path) -> Self:
        """Read what an earlier run left, or raise `ConfigError` ("seal-resume")."""
        path = out / JOURNAL
        try:
            with open_regular(path) as stream:
                data = stream.read()
        except OSError as error:
            raise ConfigError("seal-resume", f"{path}: {error.strerror}") from None
        whole = data[: data.rfind(b"\n") + 1]
        first, *rest = whole.splitlines() or [b""]
        try:
            head = parse_document(Head, first)
            done = [_done(line) for line in rest]
        except Malformed as refusal:
            raise ConfigError("seal-resume", f"{path}: {refusal.why}") from None
        if len(whole) != len(data):
            os.truncate(path, len(whole))
        return cls(path, head, done)

    def append(self, done: Done) -> None:
        """Record that a file is on disk; it is not read again when the run is resumed."""
        line = asdict(done.entry) | {"tags": b64(done.tags)}
        with self._lock:
            self._append(canonical_json(line), flags=0)

    def end(self) -> None:
        """Remove the journal: the package is complete."""
        self._path.unlink()

    def _append(self, line: bytes, *, flags: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(descriptor)


def fingerprint(files: Sequence[Plaintext]) -> str:
    """Return a digest of what is to be sealed, as hex."""
    parts = [
        part.encode()
        for file in files
        for part in (file.path, file.role, str(file.size), file.stamp)
    ]
    return hashlib.sha256(b"tacit/v1/sealing-run" + length_prefixed(*parts)).hexdigest()


def _done(line: bytes) -> Done:
    parsed = parse_document(_Done, line, limit=_MAX_LINE)
    entry = SealedFile(**parsed.model_dump(exclude={"tags"}))
    tags = unb64(parsed.tags, what="tags")
    if hashlib.sha256(tags).hexdigest() != entry.tags_sha256:
        raise Malformed("field-invalid", f"tags of file {entry.id}")
    return Done(entry, tags)
