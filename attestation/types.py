"""Nouns that cross the wire: digests, nonces, evidence and endorsements. Opaque until verified."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import NewType

from attestation.errors import Malformed

Nonce = NewType("Nonce", bytes)
"""32 random bytes chosen by the relying party, used once."""

ReportData = NewType("ReportData", bytes)
"""The 64 bytes a TDX quote commits to."""

_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class Digest:
    """A named digest, written `sha256:<hex>`."""

    algorithm: str
    value: bytes

    def __post_init__(self) -> None:
        if _SIZES.get(self.algorithm) != len(self.value):
            raise Malformed("field-invalid", f"digest of {len(self.value)} bytes has no such name")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `sha256:<64 hex>`, `sha384:<96 hex>` or `sha512:<128 hex>`, lower case."""
        algorithm, _, value = text.partition(":")
        if value != value.lower() or len(value) != 2 * _SIZES.get(algorithm, -1):
            raise Malformed("field-invalid", "digest is not <algorithm>:<lower-case hex>")
        try:
            return cls(algorithm, bytes.fromhex(value))
        except ValueError:
            raise Malformed("field-invalid", "digest is not hex") from None

    @classmethod
    def sha256(cls, data: bytes) -> Digest:
        """Digest `data` with SHA-256."""
        return cls("sha256", hashlib.sha256(data).digest())

    def matches(self, other: Digest) -> bool:
        """Compare in constant time."""
        return self.algorithm == other.algorithm and hmac.compare_digest(self.value, other.value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"


def nonce(data: bytes) -> Nonce:
    """Return `data` as a nonce, or refuse anything that is not 32 bytes."""
    if len(data) != 32:
        raise Malformed("field-invalid", f"nonce of {len(data)} bytes, not 32")
    return Nonce(data)


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What Intel says about the platform, exactly as signed; opaque until authenticated."""

    tdx: bytes
    """Collateral in dcap-qvl's JSON form (CRLs and signatures as hex), at most 1 MiB."""
    gpu: bytes = b""
    """Canonical JSON of NVIDIA's manifests and OCSP responses, empty when the guest has no GPU."""
