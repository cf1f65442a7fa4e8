"""The bytes of a device report in; what an NVIDIA GPU or switch signed about itself out.

A report is an SPDM 1.1 GET_MEASUREMENTS request of 37 bytes followed by the MEASUREMENTS response
(DMTF DSP0274 1.1, section 10.11); all integers are little endian. The signature, ECDSA P-384 over
SHA-384 as r and s, covers everything before it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import Malformed, NotAuthentic
from attestation.gpu.chain import signature_holds

MAX_REPORT = 16 * 1024
"""Largest report read, in bytes; genuine ones have about 4 KiB."""
REQUEST_SIZE, NONCE_SIZE, SIGNATURE_SIZE, DIGEST_SIZE = 37, 32, 96, 48
REQUEST = bytes.fromhex("11e001ff")
"""SPDM 1.1, GET_MEASUREMENTS, signature requested, all measurements."""
RESPONSE = bytes.fromhex("11600000")
"""SPDM 1.1, MEASUREMENTS, no change of measurements asked for."""
ON, OFF = 0xAA, 0x55
"""How reports spell a status, so that no single bit turns one into the other."""

_TEXT = re.compile(rb"[0-9A-Za-z._-]{1,32}\Z")
_PDI = 8


class Kind(Enum):
    """What device signed."""

    GPU = "gpu"
    SWITCH = "switch"


class Mode(Enum):
    """How a GPU is shared out, by the feature flag of its report."""

    SINGLE = "spt"
    """Single-GPU passthrough."""
    MULTI = "mpt"
    """Several GPUs with encrypted NVLink."""
    PROTECTED_PCIE = "ppcie"
    """Eight Hopper GPUs whose NVLink is in the clear between switches of the same guest."""
    UNSTATED = "unstated"
    """Drivers before opaque data version 1 do not say."""


class Field(Enum):
    """Types of opaque data that are read; others are signed, and nothing is decided by them."""

    DRIVER = 3
    VBIOS = 6
    NVDEC0 = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE = 21
    PDI = 22
    """A GPU's: the switches it is wired to. A switch's: its own."""
    GPU_PDIS = 26
    VERSION = 34
    CHIP = 35
    FEATURE = 36


_MODES = {0: Mode.SINGLE, 1: Mode.MULTI, 2: Mode.PROTECTED_PCIE}


_BLOCK = struct.Struct("<BBHBH48s")
"""Index, specification, size, DMTF type, value size, SHA-384."""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What a device states; `ReportFrame.verified` makes one."""

    kind: Kind
    nonce: bytes
    """The 32 bytes of the requester, which the signature answers."""
    measurements: tuple[bytes, ...]
    """48 bytes each; element i is SPDM block i+1 and the manifest's index i."""
    driver: str | None
    """Version of the kernel driver; a switch has none."""
    vbios: str
    """Version of VBIOS or switch firmware, as `96.00.5E.00.01`."""
    nvdec0: bool | None
    """Whether the video decoder is enabled, on which measurement 35 depends."""
    board: tuple[str, str, str] | None
    """Project, project SKU and chip SKU, which name the VBIOS manifest."""
    chip: str | None
    fwid: bytes | None
    """Firmware digest; old firmware leaves it to the leaf certificate."""
    protected_pcie: bool | None
    mode: Mode
    switch_pdis: frozenset[bytes]
    """Physical device ids: of the switches a GPU is wired to, or a switch's own."""
    gpu_pdis: frozenset[bytes]
    """Of the GPUs a switch is wired to."""


@dataclass(frozen=True, slots=True)
class ReportFrame:
    """A report that is well formed; what it states can be had only with the key that signed it."""

    _signed: bytes
    _signature: bytes
    _report: DeviceReport

    @classmethod
    def parse(cls, data: bytes, *, kind: Kind) -> ReportFrame:
        """Parse a report to its last byte; raises `Malformed` `too-large` or `gpu-malformed`."""
        if len(data) > MAX_REPORT:
            raise Malformed("too-large", f"GPU report of {len(data)} bytes, limit {MAX_REPORT}")
        if data.lstrip()[:1] in (b"{", b"["):  # NVIDIA's local verifier writes `alg: none` tokens
            raise Malformed("gpu-token", "this is JSON; an unsigned token is not a report")
        request, response = _Reader(data[:REQUEST_SIZE]), _Reader(data[REQUEST_SIZE:])
        request.expect(REQUEST, what="SPDM request")
        nonce = request.take(NONCE_SIZE)
        request.take(1)  # slot of the certificate chain; the chain comes beside the report
        response.expect(RESPONSE, what="SPDM response")
        count, size = response.number(1), response.number(3)
        measurements = _measurements(response.take(size), count=count)
        response.take(NONCE_SIZE)  # the device's own nonce
        fields = _fields(response.take(response.number(2)))
        signature = response.take(SIGNATURE_SIZE)
        response.end()
        report = _report(fields, kind=kind, nonce=nonce, measurements=measurements)
        return cls(data[:-SIGNATURE_SIZE], signature, report)

    def verified(self, key: ec.EllipticCurvePublicKey) -> DeviceReport:
        """Return what `key` signed, or raise `NotAuthentic` `gpu-signature`."""
        try:
            signature_holds(key, self._signature, self._signed)
        except InvalidSignature:
            raise NotAuthentic("gpu-signature", "the certified key did not sign it") from None
        return self._report


def _report(
    fields: dict[int, bytes], *, kind: Kind, nonce: bytes, measurements: tuple[bytes, ...]
) -> DeviceReport:
    opaque = _Opaque(fields)
    is_gpu = kind is Kind.GPU
    switch_pdis = opaque.pdis(Field.PDI)
    if not is_gpu and len(switch_pdis) != 1:
        raise _malformed(f"a switch states {len(switch_pdis)} ids of its own")
    return DeviceReport(
        kind=kind,
        nonce=nonce,
        measurements=measurements,
        driver=opaque.text(Field.DRIVER) if is_gpu else None,
        vbios=_version(opaque.raw(Field.VBIOS)) if is_gpu else opaque.text(Field.VBIOS),
        nvdec0=opaque.status(Field.NVDEC0) if is_gpu else None,
        board=_board(opaque) if is_gpu else None,
        chip=opaque.text(Field.CHIP) if Field.CHIP.value in fields else None,
        fwid=opaque.digest(Field.FWID),
        protected_pcie=opaque.status(Field.PROTECTED_PCIE),
        mode=_mode(opaque),
        switch_pdis=switch_pdis,
        gpu_pdis=frozenset() if is_gpu else opaque.pdis(Field.GPU_PDIS, most=8),
    )


def _board(opaque: _Opaque) -> tuple[str, str, str]:
    return (
        opaque.text(Field.PROJECT),
        opaque.text(Field.PROJECT_SKU),
        opaque.text(Field.CHIP_SKU),
    )


def _mode(opaque: _Opaque) -> Mode:
    if Field.FEATURE.value not in opaque.fields:
        return Mode.UNSTATED
    flag = opaque.raw(Field.FEATURE)
    mode = _MODES.get(int.from_bytes(flag, "little")) if len(flag) == 2 else None
    if mode is None:
        raise _malformed("the feature flag is of no known mode")
    return mode


def _version(raw: bytes) -> str:
    """Write a GPU's VBIOS version as NVIDIA does: bytes 3..0, then byte 4; the rest is zero."""
    if len(raw) != 8 or any(raw[5:]):
        raise _malformed(f"VBIOS version of {len(raw)} bytes")
    return ".".join(f"{byte:02X}" for byte in (raw[3], raw[2], raw[1], raw[0], raw[4]))


def _measurements(record: bytes, *, count: int) -> tuple[bytes, ...]:
    """Read blocks 1 to `count`: index, specification 1, size, type, value size, SHA-384."""
    if count == 0 or len(record) != count * _BLOCK.size:
        raise _malformed(f"{len(record)} bytes are not {count} measurements")
    values = []
    for number, (index, specification, size, _, value_size, value) in enumerate(
        _BLOCK.iter_unpack(record), start=1
    ):
        sizes = (DIGEST_SIZE + 3, DIGEST_SIZE)
        if (index, specification) != (number, 1) or (size, value_size) != sizes:
            raise _malformed(f"measurement block {number} is not as expected")
        values.append(value)
    return tuple(values)


def _fields(opaque: bytes) -> dict[int, bytes]:
    reader, fields = _Reader(opaque), dict[int, bytes]()
    while reader.left:
        kind, size = reader.number(2), reader.number(2)
        if kind in fields:
            raise _malformed(f"opaque data of type {kind} occurs twice")
        fields[kind] = reader.take(size)
    return fields


@dataclass(frozen=True, slots=True)
class _Opaque:
    """Opaque data by type, read as one kind of value or another."""

    fields: dict[int, bytes]

    def raw(self, field: Field) -> bytes:
        if field.value not in self.fields:
            raise _malformed(f"opaque data of type {field.value} is missing")
        return self.fields[field.value]

    def text(self, field: Field) -> str:
        """Return ASCII that zeros pad."""
        raw = self.raw(field).rstrip(b"\0")
        if not _TEXT.match(raw):
            raise _malformed(f"opaque data of type {field.value} is not a name")
        return raw.decode("ascii")

    def status(self, field: Field) -> bool | None:
        """Return on or off, `None` where the report does not say."""
        raw = self.fields.get(field.value)
        if raw is None:
            return None
        if raw not in (bytes([ON]), bytes([OFF])):
            raise _malformed(f"opaque data of type {field.value} is neither on nor off")
        return raw == bytes([ON])

    def digest(self, field: Field) -> bytes | None:
        raw = self.fields.get(field.value)
        if raw is not None and len(raw) != DIGEST_SIZE:
            raise _malformed(f"opaque data of type {field.value} has {len(raw)} bytes")
        return raw

    def pdis(self, field: Field, *, most: int = 64) -> frozenset[bytes]:
        """Return the distinct ids among the first `most`; zeros stand for an empty place.

        A switch's list of GPUs has eight places, and ports of no interest here follow it.
        """
        raw = self.fields.get(field.value, b"")
        if len(raw) % _PDI or len(raw) > 64 * _PDI:
            raise _malformed(f"opaque data of type {field.value} has {len(raw)} bytes")
        ids = {raw[at : at + _PDI] for at in range(0, min(len(raw), most * _PDI), _PDI)}
        return frozenset(ids - {bytes(_PDI)})


class _Reader:
    """Take bytes from the front; every shortage is `Malformed`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _malformed(f"cut at byte {self._at}: {self.left} of {size} bytes")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def expect(self, wanted: bytes, *, what: str) -> None:
        if self.take(len(wanted)) != wanted:
            raise _malformed(f"{what} is not as expected")

    def end(self) -> None:
        if self.left:
            raise _malformed(f"{self.left} bytes follow")


def _malformed(why: str) -> Malformed:
    return Malformed("gpu-malformed", f"device report: {why}")
