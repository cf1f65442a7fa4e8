"""Evidence: bytes a guest sent, opaque until `authenticate` has checked every signature."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.binding import Binding


@dataclass(frozen=True, slots=True)
class Evidence:
    """A TDX quote, the event log that explains its RTMRs, GPU evidence and what they bind."""

    quote: bytes
    event_log: bytes
    """TCG2 crypto-agile log: firmware events (CCEL) followed by our RTMR3 events."""
    gpu: bytes
    """Canonical JSON of the GPU evidence set, empty when the guest has no GPU."""
    binding: Binding
