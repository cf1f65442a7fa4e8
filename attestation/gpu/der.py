"""DER bytes in, their elements one level down out; only what DICE extensions need (X.690)."""

from __future__ import annotations

from attestation.errors import Malformed

_SHA384 = bytes.fromhex("608648016503040202")
_SEQUENCE, _OCTETS, _OID, _INTEGER = 0x30, 0x04, 0x06, 0x02
_FWIDS = 0xA6
"""TCG DICE Attestation Architecture, DiceTcbInfo: `fwids [6] IMPLICIT FWIDLIST`."""


def elements(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Split `data` into (tag, value) pairs that fill it exactly; single-byte tags only."""
    found = []
    at = 0
    while at < len(data):
        tag, value, at = _element(data, at)
        found.append((tag, value))
    return tuple(found)


def firmware_id(extension: bytes) -> bytes:
    """Return the 48-byte FWID of a DICE extension of an NVIDIA leaf certificate.

    Hopper and NVSwitch: `SEQUENCE {INTEGER version, SPKI, FWID}`; Blackwell: `DiceTcbInfo`, whose
    first FWID is the firmware's. Raises `Malformed` `gpu-malformed`.
    """
    outer = _inside(extension, _SEQUENCE)
    parts = elements(outer)
    if len(parts) == 3 and parts[0][0] == _INTEGER and parts[2][0] == _SEQUENCE:
        return _fwid(parts[2][1])
    lists = [value for tag, value in parts if tag == _FWIDS]
    if len(lists) != 1:
        raise _malformed()
    fwids = elements(lists[0])
    if not fwids or fwids[0][0] != _SEQUENCE:
        raise _malformed()
    return _fwid(fwids[0][1])


def _fwid(sequence: bytes) -> bytes:
    parts = elements(sequence)
    if [tag for tag, _ in parts] != [_OID, _OCTETS] or parts[0][1] != _SHA384:
        raise _malformed()
    if len(parts[1][1]) != 48:
        raise _malformed()
    return parts[1][1]


def _inside(data: bytes, tag: int) -> bytes:
    parts = elements(data)
    if len(parts) != 1 or parts[0][0] != tag:
        raise _malformed()
    return parts[0][1]


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    if len(data) < at + 2 or data[at] & 0x1F == 0x1F:
        raise _malformed()
    tag, size, start = data[at], data[at + 1], at + 2
    if size >= 0x80:
        width = size & 0x7F
        if not 1 <= width <= 2 or len(data) < start + width:
            raise _malformed()
        size = int.from_bytes(data[start : start + width], "big")
        start += width
        if size < 0x80 or size < 1 << 8 * (width - 1):  # DER has one form of a length
            raise _malformed()
    if len(data) < start + size:
        raise _malformed()
    return tag, data[start : start + size], start + size


def _malformed() -> Malformed:
    return Malformed("gpu-malformed", "the DICE extension of a device certificate is not DER")
