"""What the 64 bytes of REPORT_DATA commit to, for our own protocol and for KBS 0.4.0."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.codec import canonical_json, length_prefixed
from attestation.keyset import Keyset
from attestation.types import Nonce, ReportData

_GPU = b"tacit/v1/gpu"
_TDX = b"tacit/v1/tdx"


@dataclass(frozen=True, slots=True)
class KeysetBinding:
    """Evidence for a client: its nonce and the keyset whose keys it is about to use."""

    nonce: Nonce
    keyset: Keyset


@dataclass(frozen=True, slots=True)
class KbsBinding:
    """Evidence for a key broker: KBS 0.4.0 runtime data; `nonce` is the broker's base64 text."""

    nonce: str
    tee_pubkey: Mapping[str, str]
    additional_evidence: str
    """The exact string sent; it holds the GPU evidence as JSON, or is empty."""


Binding = KeysetBinding | KbsBinding


def gpu_nonce(nonce: Nonce, keyset: Keyset) -> bytes:
    """Return the 32-byte nonce every GPU of this guest must sign."""
    label = _GPU + length_prefixed(nonce, keyset.digest.value)
    return hashlib.sha256(label).digest()


def report_data(binding: Binding, *, event_log: bytes, gpu_evidence: bytes) -> ReportData:
    """Return the REPORT_DATA a quote over this evidence must carry.

    `gpu_evidence` is the canonical JSON of the GPU evidence set (empty when the guest has none).
    The KBS binding covers GPU evidence through `additional_evidence` and not the event log, which
    the RTMRs authenticate instead.
    """
    if isinstance(binding, KbsBinding):
        document = {
            "additional-evidence": binding.additional_evidence,
            "nonce": binding.nonce,
            "tee-pubkey": dict(binding.tee_pubkey),
        }
        return ReportData(hashlib.sha384(canonical_json(document)).digest() + bytes(16))
    parts = length_prefixed(
        binding.nonce,
        binding.keyset.digest.value,
        hashlib.sha256(gpu_evidence).digest(),
        hashlib.sha256(event_log).digest(),
    )
    return ReportData(hashlib.sha512(_TDX + parts).digest())
