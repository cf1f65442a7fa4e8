"""What a simulated GPU or switch states in; the bytes of a report, ready to be signed, out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from attestation.gpu.report import DIGEST_SIZE, OFF, ON, REQUEST, RESPONSE, Field, Kind

NO_FIELDS: Mapping[int, bytes | None] = MappingProxyType({})
SWITCH_IDS = tuple(hashlib.sha256(b"simulated switch %d" % i).digest()[:8] for i in range(4))
GPU_IDS = tuple(hashlib.sha256(b"simulated gpu %d" % i).digest()[:8] for i in range(8))


def measured(what: str, count: int) -> tuple[bytes, ...]:
    """Return `count` SHA-384 values that stand for a device's measurements."""
    return tuple(hashlib.sha384(f"simulated {what} {i}".encode()).digest() for i in range(count))


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Everything a device reports; `replace` what should be false."""

    kind: Kind = Kind.GPU
    chip: str = "GH100"
    """Prefix of the certificates' names: GH100, GB100 or LS_10."""
    driver: str = "570.124.06"
    vbios: str = "96.00.C1.00.04"
    board: tuple[str, str, str] = ("G520", "0200", "885")
    measurements: tuple[bytes, ...] = field(default_factory=lambda: measured("GH100", 64))
    nvdec0: int = OFF
    fwid: bytes = hashlib.sha384(b"simulated firmware").digest()
    """Certified in the leaf; the report repeats it."""
    protected_pcie: int = ON
    feature: int = 2
    """Feature flag: 0 SPT, 1 MPT, 2 PPCIE."""
    switch_ids: tuple[bytes, ...] = SWITCH_IDS
    gpu_ids: tuple[bytes, ...] = ()
    opaque: Mapping[int, bytes | None] = field(default_factory=lambda: NO_FIELDS)
    """Replaces opaque data by type before signing; `None` leaves it out."""

    def unsigned(self, nonce: bytes) -> bytes:
        """Return request and response up to the signature."""
        blocks = b"".join(
            bytes([index, 1]) + _le(DIGEST_SIZE + 3) + b"\x01" + _le(DIGEST_SIZE) + value
            for index, value in enumerate(self.measurements, start=1)
        )
        opaque = b"".join(
            _le(kind) + _le(len(value)) + value
            for kind, value in {**self._fields(), **self.opaque}.items()
            if value is not None
        )
        response = RESPONSE + bytes([len(self.measurements)]) + len(blocks).to_bytes(3, "little")
        own_nonce = hashlib.sha256(b"device " + nonce).digest()
        return b"".join(
            (REQUEST, nonce, b"\0", response, blocks, own_nonce, _le(len(opaque)), opaque)
        )

    def _fields(self) -> dict[int, bytes]:
        if self.kind is Kind.SWITCH:
            return {
                Field.VBIOS.value: self.vbios.encode(),
                Field.PDI.value: b"".join(self.switch_ids),
                Field.GPU_PDIS.value: b"".join(self.gpu_ids).ljust(128, b"\xff"),
            }
        version = bytes.fromhex(self.vbios.replace(".", ""))
        project, project_sku, chip_sku = self.board
        return {
            Field.VBIOS.value: version[3::-1] + version[4:] + bytes(3),
            Field.CHIP_SKU.value: chip_sku.encode() + bytes(6),
            Field.PROJECT.value: project.encode() + b"\0",
            Field.PROJECT_SKU.value: project_sku.encode() + b"\0",
            Field.DRIVER.value: self.driver.encode() + b"\0",
            Field.NVDEC0.value: bytes([self.nvdec0]),
            Field.FWID.value: self.fwid,
            Field.PROTECTED_PCIE.value: bytes([self.protected_pcie]),
            Field.PDI.value: b"".join(self.switch_ids * 4) + bytes(16),
            Field.VERSION.value: _le(1),
            Field.FEATURE.value: _le(self.feature),
        }


def switch_state(index: int) -> DeviceState:
    """Return what switch `index` of a baseboard with eight GPUs reports."""
    return DeviceState(
        kind=Kind.SWITCH,
        chip="LS_10",
        vbios="96.10.6D.00.01",
        measurements=measured("LS10", 31),
        switch_ids=(SWITCH_IDS[index],),
        gpu_ids=GPU_IDS,
    )


def _le(value: int) -> bytes:
    return value.to_bytes(2, "little")
