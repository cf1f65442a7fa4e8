"""What verified evidence states: to be appraised, explained and shown, whatever it was bound to."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.binding import Binding
from attestation.gpu.claims import GpuClaims
from attestation.tdx.claims import TdxClaims
from attestation.tdx.eventlog import EventSummary, RuntimeEvent


@dataclass(frozen=True, slots=True)
class Facts:
    """What evidence states whose signatures hold."""

    simulated: bool
    """The root is a simulator's: the signatures hold and prove nothing about hardware."""
    tdx: TdxClaims
    runtime: tuple[RuntimeEvent, ...]
    """What the guest measured into RTMR3 after boot, in order; empty without an event log."""
    events: EventSummary
    """Whether there was an event log (its replay equals the quote's RTMRs) and what to note."""
    binding: Binding | None
    """The keyset or KBS runtime data that REPORT_DATA commits to, with the expected nonce; `None`
    for a bare quote, which nothing ties to a key or a nonce."""
    gpu: tuple[GpuClaims, ...] = ()
    """What each GPU and switch states, empty for a guest without them."""
