"""The signed manifest of a sealed model: an in-toto statement in, the files one may open out.

Rules. Only files named here are ever opened. Names are relative, plain and unlike in every case
folding; weights are safetensors and nothing else is. The reader brings the signer's key; nothing in
the package says who may sign. The digest of the exact payload is what a guest measures and a key is
released for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from attestation import dsse, merkle
from attestation.codec import Document, canonical_json, parse_document
from attestation.errors import Malformed
from attestation.golden import Golden
from attestation.keyset import Line, Name
from attestation.sealing import MAX_CHUNK, MIN_CHUNK, TAG, chunk_count
from attestation.types import Digest

MANIFEST = "manifest.dsse.json"
TAGS = "tags.bin"
PREDICATE = "tag:tacit-inference,2026:sealed-weights/v1"

Role = Literal["weights", "config", "tokenizer", "template", "other"]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[int, Field(ge=1, le=2**31)]
_Part = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,126}"
_PLAIN = re.compile(rf"{_Part}(?:/{_Part}){{0,3}}")
_RESOURCE = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,255}"
_MAX_SIZE = 1 << 44
"""Largest file, in bytes: 2^20 chunks of 16 MiB, far below GCM's bound for one key."""


Part = tuple[int, memoryview]
"""Where in a chunk some bytes begin, and where as many of them go as fit."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file of a model: what it is called, and how its ciphertext and plaintext are known."""

    id: int
    role: Role
    path: str
    """Where it lay in the model's directory, with forward slashes."""
    size: int
    chunks: int
    tags_sha256: str
    """SHA-256 of the file's tags in chunk order, as hex."""
    sha256: str
    """SHA-256 of the plaintext, as hex."""

    @property
    def sealed_name(self) -> str:
        """Name of the ciphertext in the package; it tells nothing."""
        return f"{self.id:05d}.sealed"

    @property
    def entry(self) -> bytes:
        """What `weights_root` is computed over: the content, whichever way it was sealed."""
        return canonical_json(
            {"path": self.path, "role": self.role, "sha256": self.sha256, "size": self.size}
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """An authentic manifest; made by `open` from a signature that held, or by `issue`."""

    model: str
    version: int
    """Grows with every release of a model; a key names the least version it may open."""
    source: str | None
    """Where the weights came from, as the sealer states it, such as `hf:Qwen/Qwen3-8B@b968826`."""
    generation: bytes
    chunk_size: int
    """Plaintext bytes of every chunk but a file's last."""
    key: str
    """The key's resource, `kbs:///repo/type/tag`."""
    key_commitment: bytes
    files: tuple[SealedFile, ...]
    weights_root: bytes
    """RFC 6962 root over the entries of all files: the same model, the same root."""
    digest: Digest
    """SHA-256 of the exact payload that was signed."""
    golden: Golden | None
    """What the loaded model must say; without it only what was read is known, not what is run."""

    @classmethod
    def open(cls, envelope: bytes, *, signer: Ed25519PublicKey) -> Manifest:
        """Return what `signer` signed.

        Raises `NotAuthentic` ("manifest-signer") or `Malformed` ("manifest-malformed" and the
        codes of `attestation.dsse`).
        """
        payload = dsse.verify(envelope, signer=signer)
        statement = parse_document(_Statement, payload)
        predicate = statement.predicate
        if len(statement.subject) != len(predicate.files):
            raise Malformed("manifest-malformed", "subjects and files are not the same list")
        files = tuple(
            SealedFile(**item.model_dump(), sha256=subject.digest.sha256)
            for item, subject in zip(predicate.files, statement.subject, strict=True)
            if item.path == subject.name
        )
        check_files(files, chunk_size=predicate.chunk_size)
        root = merkle.root([file.entry for file in files])
        if len(files) != len(statement.subject) or root.hex() != predicate.weights_root:
            raise Malformed("manifest-malformed", "subjects, files and root do not agree")
        return cls(
            model=predicate.model,
            version=predicate.version,
            source=predicate.source,
            generation=bytes.fromhex(predicate.generation),
            chunk_size=predicate.chunk_size,
            key=predicate.key,
            key_commitment=bytes.fromhex(predicate.key_commitment),
            files=files,
            weights_root=root,
            digest=Digest.sha256(payload),
            golden=predicate.golden,
        )

    def tags_span(self, file: SealedFile) -> tuple[int, int]:
        """Return where the tags of `file` begin and end in the tag table, in bytes."""
        start = TAG * sum(before.chunks for before in self.files[: file.id])
        return start, start + TAG * file.chunks

    def chunk_length(self, file: SealedFile, index: int) -> int:
        """Return the plaintext bytes of chunk `index` of `file`; the last one may be short."""
        return min(self.chunk_size, file.size - index * self.chunk_size)

    def parts(self, buffer: memoryview, *, offset: int) -> Iterator[tuple[int, Part]]:
        """Cut a buffer for the bytes of a file from `offset` on: a chunk's index, and its part."""
        size, end = self.chunk_size, offset + len(buffer)
        for index in range(offset // size, -(-end // size)) if len(buffer) else ():
            start, stop = max(offset, index * size), min(end, (index + 1) * size)
            yield index, (start - index * size, buffer[start - offset : stop - offset])


def issue(
    files: Sequence[SealedFile],
    *,
    model: str,
    version: int,
    source: str | None,
    generation: bytes,
    chunk_size: int,
    key: str,
    key_commitment: bytes,
    signer: Ed25519PrivateKey,
    golden: Golden | None = None,
) -> bytes:
    """Return the envelope of a new manifest, which `Manifest.open` accepts."""
    predicate = {
        "model": model,
        "version": version,
        "source": source,
        "generation": generation.hex(),
        "chunk_size": chunk_size,
        "key": key,
        "key_commitment": key_commitment.hex(),
        "weights_root": merkle.root([file.entry for file in files]).hex(),
        "files": [
            {
                "id": file.id,
                "role": file.role,
                "path": file.path,
                "size": file.size,
                "chunks": file.chunks,
                "tags_sha256": file.tags_sha256,
            }
            for file in files
        ],
    }
    if golden is not None:
        predicate["golden"] = golden.model_dump(mode="json")
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in files],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    envelope = dsse.sign(canonical_json(statement), signer=signer)
    Manifest.open(envelope, signer=signer.public_key())  # never publish what no reader takes
    return envelope


def check_files(files: Sequence[SealedFile], *, chunk_size: int) -> None:
    """Refuse names that could reach another file, and sizes that do not add up."""
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK or chunk_size.bit_count() != 1:
        raise Malformed("manifest-malformed", f"chunks of {chunk_size} bytes")
    taken: set[str] = set()
    for place, file in enumerate(files):
        folded = file.path.casefold()
        if not is_plain(file.path):
            raise Malformed("manifest-malformed", f"file {place} has a path that is not plain")
        if folded in taken:
            raise Malformed("manifest-malformed", f"file {place} has a path taken by another")
        if (file.role == "weights") is not folded.endswith(".safetensors"):
            raise Malformed("manifest-malformed", f"file {place} has another role than its name")
        if file.id != place or file.chunks != chunk_count(file.size, chunk_size=chunk_size):
            raise Malformed("manifest-malformed", f"file {place} has a stray id or chunk count")
        taken.add(folded)
    if any(parent in taken for file in files for parent in _parents(file.path.casefold())):
        raise Malformed("manifest-malformed", "a file's path goes through another file")
    if not any(file.role == "weights" for file in files):
        raise Malformed("manifest-malformed", "a model without weights")


def is_plain(path: str) -> bool:
    """Tell whether `path` is relative, of plain names, and not one of the package's own."""
    return bool(
        _PLAIN.fullmatch(path)
        and path.casefold() not in (MANIFEST, TAGS)
        and not path.casefold().endswith(".sealed")
    )


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


class _Sha256(Document):
    sha256: Hex32


class _Subject(Document):
    name: str
    digest: _Sha256


class _File(Document):
    id: Annotated[int, Field(ge=0, lt=100_000)]
    role: Role
    path: str
    size: Annotated[int, Field(ge=0, le=_MAX_SIZE)]
    chunks: Annotated[int, Field(ge=0)]
    tags_sha256: Hex32


class _Predicate(Document):
    model: Name
    version: Version
    source: Line | None
    generation: Hex32
    chunk_size: int
    key: Annotated[str, StringConstraints(pattern=rf"^kbs://(?:/{_RESOURCE}){{3}}$")]
    key_commitment: Hex32
    weights_root: Hex32
    files: Annotated[tuple[_File, ...], Field(min_length=1)]
    golden: Golden | None = None


class _Statement(Document):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1)]
    predicateType: Literal["tag:tacit-inference,2026:sealed-weights/v1"]  # noqa: N815
    predicate: _Predicate
