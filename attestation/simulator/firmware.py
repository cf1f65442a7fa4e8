"""The simulated boot before Linux: the events that OVMF and the kernel's EFI stub would measure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from attestation.tdx.eventlog import Event

CCEL_SIZE = 64 * 1024
"""Bytes of the ACPI log area; what is unused is 0xFF."""

_HANDOFF_TABLE, _FIRMWARE_BLOB = 0x8000000B, 0x8000000A
_VARIABLE, _BOOT_VARIABLE, _APPLICATION, _ACTION = 0x80000001, 0x80000002, 0x80000003, 0x80000007
_NO_ACTION, _SEPARATOR, _TAG, _CONFIG = 0x3, 0x4, 0x6, 0xA
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_SECURITY_DATABASE = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
_SHA384 = 0x000C


def boot_events(*, kernel: str, command_line: str) -> tuple[Event, ...]:
    """Return the measured boot of a TD that starts `kernel` with `command_line`."""
    zero = bytes(4)
    return (
        _event(0, _HANDOFF_TABLE, b"\x09TdxTable\0" + struct.pack("<Q", 1)),
        _event(0, _FIRMWARE_BLOB, b"\x0eSimulated OVMF" + bytes(16)),
        _variable(_GLOBAL_VARIABLE, "SecureBoot", b"\x01"),
        _variable(_GLOBAL_VARIABLE, "PK", b"simulated platform key"),
        _variable(_GLOBAL_VARIABLE, "KEK", b"simulated key exchange key"),
        _variable(_SECURITY_DATABASE, "db", b"simulated allowed signers"),
        _variable(_SECURITY_DATABASE, "dbx", b"simulated revoked signers"),
        _event(0, _SEPARATOR, zero),
        _event(0, _CONFIG, b"ACPI DATA"),
        _variable(_GLOBAL_VARIABLE, "BootOrder", b"\0\0", kind=_BOOT_VARIABLE),
        _event(1, _APPLICATION, b"\\EFI\\BOOT\\BOOTX64.EFI", measured=kernel.encode()),
        _event(1, _ACTION, b"Calling EFI Application from Boot Option"),
        _event(1, _SEPARATOR, zero),
        _tagged(b"LOADED_IMAGE::LoadOptions\0", 0x8F3B22ED, command_line.encode("utf-16-le")),
        _tagged(b"Linux initrd\0", 0x8F3B22EC, b"simulated initrd of " + kernel.encode()),
        _event(2, _SEPARATOR, zero),
        _event(1, _ACTION, b"Exit Boot Services Invocation"),
        _event(1, _ACTION, b"Exit Boot Services Returned with Success"),
    )


def encode_log(events: Sequence[Event]) -> bytes:
    """Return the crypto-agile log of `events` without filler (TCG PFP section 10)."""
    spec_id = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    spec_id += struct.pack("<IHHB", 1, _SHA384, 48, 0)
    head = struct.pack("<II20sI", 1, _NO_ACTION, bytes(20), len(spec_id)) + spec_id
    return head + b"".join(_record(event) for event in events)


def encode_table(log_size: int) -> bytes:
    """Return the 56-byte ACPI table CCEL (ACPI 6.5 section 5.2.34) for a log of `log_size`."""
    table = struct.pack(
        "<4sIBB6s8sI4sIBBHQQ",
        *(b"CCEL", 56, 1, 0, b"SIMULA", b"TEDTDX  ", 1, b"TACI", 1, 2, 0, 0, log_size, 0x7F000000),
    )
    checksum = -sum(table) & 0xFF
    return table[:9] + bytes([checksum]) + table[10:]


def _record(event: Event) -> bytes:
    head = struct.pack("<IIIH", event.rtmr + 1, event.event_type, 1, _SHA384)
    return head + event.digest + struct.pack("<I", len(event.data)) + event.data


def _event(rtmr: int, kind: int, data: bytes, *, measured: bytes = b"") -> Event:
    """Return an event whose digest is of its data or, for images, of what was loaded."""
    return Event(rtmr, kind, hashlib.sha384(measured or data).digest(), data)


def _variable(guid: bytes, name: str, value: bytes, *, kind: int = _VARIABLE) -> Event:
    encoded = name.encode("utf-16-le")
    head = guid + struct.pack("<QQ", len(name), len(value))
    return _event(0, kind, head + encoded + value)


def _tagged(description: bytes, tag: int, measured: bytes) -> Event:
    data = struct.pack("<II", tag, len(description)) + description
    return _event(2, _TAG, data, measured=measured)
