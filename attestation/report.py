"""The attestation report: what a service sends about itself, and what a verifier keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from attestation.binding import KeysetBinding
from attestation.codec import MAX_JSON, Document, b64url, canonical_json, parse_document, unb64url
from attestation.errors import NotAuthentic, Undecidable
from attestation.evidence import Evidence
from attestation.keyset import DigestText, Keyset
from attestation.types import Digest, Endorsements, Nonce, nonce

COLLECTION = "tag:tacit.example,2026:evidence#1"
"""`__cmwc_t` of our conceptual-message collection (RFC 9999 section 3.3)."""
QUOTE_MEDIA = "application/vnd.tacit.tdx-quote"
EVENT_LOG_MEDIA = "application/vnd.tacit.tcg2-event-log"
COLLATERAL_MEDIA = "application/vnd.tacit.tdx-collateral+json"
GPU_MEDIA = "application/vnd.tacit.gpu-evidence+json"
GPU_STORE_MEDIA = "application/vnd.tacit.gpu-endorsements+json"

_EVIDENCE, _ENDORSEMENTS = 4, 2
"""Bits of the CMW indicator: bit 2 is Evidence, bit 1 is Endorsements."""

_Text = Annotated[str, StringConstraints(max_length=MAX_JSON)]
QuoteRecord = tuple[Literal["application/vnd.tacit.tdx-quote"], _Text, Literal[4]]
EventLogRecord = tuple[Literal["application/vnd.tacit.tcg2-event-log"], _Text, Literal[4]]
CollateralRecord = tuple[Literal["application/vnd.tacit.tdx-collateral+json"], _Text, Literal[2]]

GpuRecord = tuple[Literal["application/vnd.tacit.gpu-evidence+json"], _Text, Literal[4]]
GpuStoreRecord = tuple[Literal["application/vnd.tacit.gpu-endorsements+json"], _Text, Literal[2]]
_NO_GPU: GpuRecord = ("application/vnd.tacit.gpu-evidence+json", "", 4)
_NO_GPU_STORE: GpuStoreRecord = ("application/vnd.tacit.gpu-endorsements+json", "", 2)


class EvidenceCollection(Document):
    """A CMW JSON collection; every record is `[media type, base64url, indicator]`."""

    collection: Annotated[Literal["tag:tacit.example,2026:evidence#1"], Field(alias="__cmwc_t")]
    tdx: QuoteRecord
    eventlog: EventLogRecord
    gpu: GpuRecord = _NO_GPU
    """Absent for a guest without GPUs."""


class Verification(Document):
    """What the relying party saw when it verified; kept so that it can be judged again."""

    verified_at: AwareDatetime
    tls_spki: DigestText
    """Digest of the TLS key that delivered the report."""
    policy: _Text
    """The text of the policy that was applied."""


class ReportDocument(Document):
    """The JSON of a report."""

    version: Literal[1]
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    keyset: Keyset
    evidence: EvidenceCollection
    endorsements: CollateralRecord | None
    """Collateral the service staples, `null` where it has none."""
    gpu_endorsements: GpuStoreRecord = _NO_GPU_STORE
    """NVIDIA's statements the service staples, absent for a guest without GPUs."""
    verification: Verification | None
    """`null` as sent by a service."""


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report; everything in it is a claim until `authenticate` has run."""

    nonce: Nonce
    keyset: Keyset
    quote: bytes
    event_log: bytes
    stapled: Endorsements | None
    verification: Verification | None = None
    gpu: bytes = b""

    @classmethod
    def build(cls, evidence: Evidence, endorsements: Endorsements | None) -> Report:
        """Make the report of evidence that is bound to a keyset, stapling `endorsements`."""
        binding = evidence.binding
        if not isinstance(binding, KeysetBinding):
            raise TypeError("a report carries evidence bound to a keyset")
        return cls(
            nonce=binding.nonce,
            keyset=binding.keyset,
            quote=evidence.quote,
            event_log=evidence.event_log,
            stapled=endorsements,
            gpu=evidence.gpu,
        )

    @classmethod
    def parse(cls, data: bytes) -> Report:
        """Parse at most 4 MiB of report, sent or saved, or raise `Malformed`."""
        document = parse_document(ReportDocument, data)
        staple = document.endorsements
        return cls(
            nonce=nonce(bytes.fromhex(document.nonce)),
            keyset=document.keyset,
            quote=unb64url(document.evidence.tdx[1], what="quote"),
            event_log=unb64url(document.evidence.eventlog[1], what="event log"),
            stapled=None
            if staple is None
            else Endorsements(
                unb64url(staple[1], what="endorsements"),
                unb64url(document.gpu_endorsements[1], what="GPU endorsements"),
            ),
            verification=document.verification,
            gpu=unb64url(document.evidence.gpu[1], what="GPU evidence"),
        )

    @property
    def evidence(self) -> Evidence:
        """The evidence, opaque until authenticated."""
        return Evidence(
            self.quote, self.event_log, self.gpu, KeysetBinding(self.nonce, self.keyset)
        )

    @property
    def endorsements(self) -> Endorsements:
        """The stapled endorsements; raises `Undecidable` where the service sent none."""
        if self.stapled is None:
            raise Undecidable("endorsements-missing", "the report has no stapled collateral")
        return self.stapled

    def check_tls_key(self, seen: Digest) -> None:
        """Raise `NotAuthentic` `tls-key-mismatch` unless `seen` is the key of the keyset.

        It says something once the report is authenticated: then only this guest has that key.
        """
        if not Digest.parse(self.keyset.tls_spki).matches(seen):
            raise NotAuthentic("tls-key-mismatch", "the TLS key seen is not the attested one")

    def verified(
        self, at: datetime, *, tls_spki: Digest, policy: bytes, endorsements: Endorsements
    ) -> Report:
        """Return the form that is saved: with the collateral, policy and time that were used."""
        seen = Verification(
            verified_at=at.replace(microsecond=0), tls_spki=str(tls_spki), policy=policy.decode()
        )
        return replace(self, stapled=endorsements, verification=seen)

    def to_bytes(self) -> bytes:
        """Return canonical JSON."""
        staple = self.stapled
        seen = self.verification
        gpu = {"gpu": [GPU_MEDIA, b64url(self.gpu), _EVIDENCE]} if self.gpu else {}
        stored = {}
        if staple is not None and staple.gpu:
            stored = {"gpu_endorsements": [GPU_STORE_MEDIA, b64url(staple.gpu), _ENDORSEMENTS]}
        return canonical_json(
            {
                **stored,
                "version": 1,
                "nonce": self.nonce.hex(),
                "keyset": self.keyset.model_dump(mode="json"),
                "evidence": {
                    "__cmwc_t": COLLECTION,
                    "tdx": [QUOTE_MEDIA, b64url(self.quote), _EVIDENCE],
                    "eventlog": [EVENT_LOG_MEDIA, b64url(self.event_log), _EVIDENCE],
                    **gpu,
                },
                "endorsements": None
                if staple is None
                else [COLLATERAL_MEDIA, b64url(staple.tdx), _ENDORSEMENTS],
                "verification": None if seen is None else seen.model_dump(mode="json"),
            }
        )


def looks_like_report(data: bytes) -> bool:
    """Say whether `data` begins as JSON does; a quote begins with its version number."""
    return data.lstrip()[:1] == b"{"
