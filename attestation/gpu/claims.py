"""What verified GPU evidence states."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from attestation.gpu.report import Kind, Mode
from attestation.types import Digest


class Architecture(Enum):
    """Chip families that can attest."""

    HOPPER = "hopper"
    BLACKWELL = "blackwell"
    LS10 = "ls10"
    """NVSwitch of the third generation."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest that golden measurements came from."""

    id: str
    version: str
    digest: Digest
    expires: datetime


@dataclass(frozen=True, slots=True)
class GpuClaims:
    """One device, authenticated, not appraised; `verify.verify_gpu` makes one."""

    kind: Kind
    architecture: Architecture
    """As the certificate chain states it."""
    serial: str
    """Of the leaf certificate, hex: the device's identity."""
    fwid: bytes
    """Digest of the firmware that holds the signing key (TCG DICE)."""
    driver: str | None
    """A switch has none."""
    vbios: str
    mode: Mode
    protected_pcie: bool | None
    switch_pdis: frozenset[bytes]
    """Of the switches a GPU is wired to, or a switch's own."""
    gpu_pdis: frozenset[bytes]
    """Of the GPUs a switch is wired to."""
    references: tuple[Reference, ...]
    compared: int
    """How many measurements were compared with golden values."""
    unmatched: tuple[int, ...]
    """Indexes of those that are none of NVIDIA's golden values."""
    revocation: datetime | None
    """Issue of the oldest OCSP response that was used; `None` when there was none."""
    missing: tuple[str, ...]
    """Endorsements that were not given, so that nothing could be concluded from them."""
    expires: datetime
    """When the first certificate, manifest or OCSP response ends."""
