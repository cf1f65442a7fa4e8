"""Evidence, endorsements, roots, a nonce and a time in; claims whose every signature holds out."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

from attestation.binding import Binding, KbsBinding, report_data
from attestation.errors import Malformed, NotAuthentic, Undecidable
from attestation.evidence import Evidence
from attestation.facts import Facts
from attestation.gpu.claims import GpuClaims
from attestation.gpu.evidence import MAX_GPU, GpuEndorsements, GpuEvidence, bound_nonce
from attestation.gpu.verify import GpuRoots, verify_gpu
from attestation.recent import Recent
from attestation.tdx.claims import TdxClaims
from attestation.tdx.eventlog import (
    MAX_EVENT_LOG,
    NO_EVENTS,
    EventLog,
    EventSummary,
    Registers,
    Replayed,
    RuntimeEvent,
)
from attestation.tdx.quote import QuoteVerifier
from attestation.tdx.stated import Root
from attestation.types import Endorsements

_LOGS = 8
"""Event logs kept parsed: those of the guests a relying party talks to, one a boot."""


@dataclass(frozen=True, slots=True)
class Roots:
    """The trust anchors of a policy; evidence under a simulated root is labelled everywhere."""

    tdx_der: bytes
    simulated: bool
    gpu: GpuRoots | None = None
    """NVIDIA's roots; evidence that covers GPUs is undecidable without them."""
    quotes: QuoteVerifier = field(init=False, repr=False, compare=False)
    """Verifies under `tdx_der`; it keeps what it parsed last."""
    logs: Recent[bytes, Replayed] = field(
        default_factory=lambda: Recent(_LOGS), init=False, repr=False, compare=False
    )
    """What the last event logs that a quote vouched for say."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quotes", QuoteVerifier(Root.parse(self.tdx_der)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claims(Facts):
    binding: Binding
    expires_at: datetime
    """When the first signature or list that this rests on ends."""


Claims = NewType("Claims", _Claims)
"""Authenticated, not appraised. `authenticate` alone makes one."""


def authenticate(
    evidence: Evidence,
    endorsements: Endorsements,
    *,
    roots: Roots,
    expected_nonce: bytes | str,
    now: datetime,
) -> Claims:
    """Check every signature and binding of `evidence` at `now`; stop at the first that fails.

    1. sizes; 2. the quote under `roots` (`tdx.quote.QuoteVerifier`); 3. REPORT_DATA recomputed over
    keys, GPU evidence and logs; 4. the relying party's own nonce (bytes of a `KeysetBinding`,
    base64 text of a `KbsBinding`); 5. GPUs, whose own nonce derives from binding and nonce
    (`gpu.verify.verify_gpu`); 6. the event log replays to the quote's RTMRs. Evidence without a log
    passes with `events.present` false and no runtime events, which a policy that names any will
    refuse. Raises a `Refusal`.
    """
    _check_size(evidence)
    tdx = roots.quotes.verify(evidence.quote, endorsements.tdx, now=now)
    _check_binding(evidence, tdx)
    _check_nonce(evidence.binding, expected_nonce)
    gpu = _gpu_claims(evidence, endorsements, roots=roots, now=now)
    runtime, events = _replay(evidence.event_log, tdx, known=roots.logs)
    return Claims(
        _Claims(
            simulated=roots.simulated,
            tdx=tdx,
            runtime=runtime,
            events=events,
            gpu=gpu,
            binding=evidence.binding,
            expires_at=min([tdx.collateral.expires, *(device.expires for device in gpu)]),
        )
    )


def _check_size(evidence: Evidence) -> None:
    """Refuse what is too large before anything is parsed; quote and collateral cap themselves."""
    for what, data, limit in (
        ("event log", evidence.event_log, MAX_EVENT_LOG),
        ("GPU evidence", evidence.gpu, MAX_GPU),
    ):
        if len(data) > limit:
            raise Malformed("too-large", f"{what} of {len(data)} bytes, limit {limit}")


def _check_binding(evidence: Evidence, tdx: TdxClaims) -> None:
    try:
        bound = report_data(
            evidence.binding, event_log=evidence.event_log, gpu_evidence=evidence.gpu
        )
    except (TypeError, UnicodeEncodeError):  # names or text that RFC 8785 cannot express
        raise Malformed("field-invalid", "the runtime data has no canonical form") from None
    if not hmac.compare_digest(bound, tdx.report.report_data):
        raise NotAuthentic("binding-mismatch", "REPORT_DATA does not commit to this evidence")


def _check_nonce(binding: Binding, expected: bytes | str) -> None:
    if not _same(binding.nonce, expected):
        raise NotAuthentic("nonce-mismatch", "the evidence answers another nonce")


def _gpu_claims(
    evidence: Evidence, endorsements: Endorsements, *, roots: Roots, now: datetime
) -> tuple[GpuClaims, ...]:
    """Verify the evidence set that REPORT_DATA covers, wherever the binding keeps it."""
    binding, data = evidence.binding, evidence.gpu
    if isinstance(binding, KbsBinding):
        if data:
            raise NotAuthentic("binding-mismatch", "REPORT_DATA does not cover this GPU evidence")
        data = binding.additional_evidence.encode()
    if not data:
        return ()
    if roots.gpu is None:
        raise Undecidable("gpu-unsupported", "the evidence covers GPUs; no root for them is named")
    return verify_gpu(
        GpuEvidence.parse(data),
        GpuEndorsements.parse(endorsements.gpu),
        nonce=bound_nonce(binding),
        roots=roots.gpu,
        now=now,
    )


def _same(given: bytes | str, expected: bytes | str) -> bool:
    """Compare two nonces of one kind; text never equals bytes."""
    if isinstance(given, str) and isinstance(expected, str):
        return hmac.compare_digest(given.encode(), expected.encode())
    if isinstance(given, bytes) and isinstance(expected, bytes):
        return hmac.compare_digest(given, expected)
    return False


def _replay(
    data: bytes, tdx: TdxClaims, *, known: Recent[bytes, Replayed]
) -> tuple[tuple[RuntimeEvent, ...], EventSummary]:
    if not data:
        return (), NO_EVENTS
    kept = known.find(data)
    if kept is None:
        runtime, events = replayed_events(EventLog.parse(data), tdx)
        kept = known.keep(data, Replayed(tdx.report.rtmrs, runtime, events))
    _check_registers(kept.registers, tdx)
    return kept.runtime, kept.summary


def replayed_events(log: EventLog, tdx: TdxClaims) -> tuple[tuple[RuntimeEvent, ...], EventSummary]:
    """Return what `log` says once it replays to the RTMRs of a verified quote.

    Raises `NotAuthentic` `eventlog-mismatch` or `eventlog-payload`.
    """
    _check_registers(log.replay(), tdx)
    return log.runtime_events(), log.summary()


def _check_registers(replayed: Registers, tdx: TdxClaims) -> None:
    for index, (ours, quoted) in enumerate(zip(replayed, tdx.report.rtmrs, strict=True)):
        if not hmac.compare_digest(ours, quoted):
            raise NotAuthentic("eventlog-mismatch", f"the log does not replay to RTMR{index}")
