"""Canonical JSON in; the device reports of a guest, or stored endorsements of them, out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from attestation.binding import Binding, KeysetBinding, gpu_nonce
from attestation.codec import (
    Document,
    b64,
    canonical_json,
    length_prefixed,
    parse_document,
    unb64,
)
from attestation.errors import Malformed
from attestation.gpu.report import Kind

MAX_GPU = 1024 * 1024
"""Largest evidence set read, in bytes; eight GPUs and four switches have about 150 KiB."""
MAX_STORE = 4 * 1024 * 1024
"""Largest store of endorsements read, in bytes."""
MOST_DEVICES = 64

_KBS = b"tacit/v1/gpu-kbs"
_Base64 = Annotated[str, StringConstraints(max_length=512 * 1024)]
_RimId = Annotated[str, StringConstraints(pattern=r"^NV_[0-9A-Za-z._-]{1,120}$")]


class DeviceDocument(Document):
    """What one device sent."""

    kind: Literal["gpu", "switch"]
    arch: Literal["hopper", "blackwell", "ls10"]
    report: _Base64
    certificates: Annotated[str, StringConstraints(max_length=16 * 1024)]
    """PEM, leaf first, root last."""


class EvidenceDocument(Document):
    """The evidence set of one guest."""

    version: Literal[1]
    devices: Annotated[tuple[DeviceDocument, ...], Field(min_length=1, max_length=MOST_DEVICES)]


class StoreDocument(Document):
    """Endorsements, by the ids NVIDIA's services give manifests."""

    version: Literal[1]
    rims: Annotated[dict[_RimId, _Base64], Field(max_length=64)]
    ocsp: Annotated[tuple[_Base64, ...], Field(max_length=256)]


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """One device's report and certificates; nothing in them is verified."""

    kind: Kind
    arch: str
    report: bytes
    certificates: str


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """Every device of a guest, in the order it lists them."""

    devices: tuple[DeviceEvidence, ...]

    @classmethod
    def parse(cls, data: bytes) -> GpuEvidence:
        """Parse canonical JSON: one evidence set has one text, and one digest in the quote.

        Raises `Malformed` `too-large`, `json-malformed`, `field-invalid` or `gpu-not-canonical`.
        """
        if len(data) > MAX_GPU:
            raise Malformed("too-large", f"GPU evidence of {len(data)} bytes, limit {MAX_GPU}")
        document = parse_document(EvidenceDocument, data, limit=MAX_GPU)
        evidence = cls(
            tuple(
                DeviceEvidence(
                    Kind(item.kind),
                    item.arch,
                    unb64(item.report, what="device report"),
                    item.certificates,
                )
                for item in document.devices
            )
        )
        if evidence.to_bytes() != data:
            raise Malformed("gpu-not-canonical", "GPU evidence is not RFC 8785 JSON")
        return evidence

    def to_bytes(self) -> bytes:
        """Return canonical JSON, what REPORT_DATA commits to."""
        devices = [
            {
                "kind": device.kind.value,
                "arch": device.arch,
                "report": b64(device.report),
                "certificates": device.certificates,
            }
            for device in self.devices
        ]
        return canonical_json({"version": 1, "devices": devices})


@dataclass(frozen=True, slots=True)
class GpuEndorsements:
    """NVIDIA's statements as stored: manifests by id and OCSP responses; nothing is verified."""

    rims: Mapping[str, bytes]
    ocsp: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> GpuEndorsements:
        """Parse a store; the empty one is written as no bytes. Raises `Malformed`."""
        if not data:
            return cls({}, ())
        document = parse_document(StoreDocument, data, limit=MAX_STORE)
        return cls(
            {name: unb64(text, what="manifest") for name, text in document.rims.items()},
            tuple(unb64(text, what="OCSP response") for text in document.ocsp),
        )

    @classmethod
    def of(cls, rims: Mapping[str, bytes], ocsp: Iterable[bytes]) -> GpuEndorsements:
        """Collect statements into a store."""
        return cls(dict(rims), tuple(ocsp))

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        return canonical_json(
            {
                "version": 1,
                "rims": {name: b64(xml) for name, xml in self.rims.items()},
                "ocsp": [b64(der) for der in self.ocsp],
            }
        )


def bound_nonce(binding: Binding) -> bytes:
    """Return the 32-byte nonce that every device of a guest with this binding must sign.

    For a key broker it is SHA-256("tacit/v1/gpu-kbs" ‖ lp(nonce) ‖ lp(JCS(tee-pubkey))): known
    before the evidence that REPORT_DATA then covers.
    """
    if isinstance(binding, KeysetBinding):
        return gpu_nonce(binding.nonce, binding.keyset)
    try:
        parts = length_prefixed(binding.nonce.encode(), canonical_json(dict(binding.tee_pubkey)))
    except (TypeError, UnicodeEncodeError):
        raise Malformed("field-invalid", "the runtime data has no canonical form") from None
    return hashlib.sha256(_KBS + parts).digest()
