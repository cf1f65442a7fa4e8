"""Two event logs in; which measurements of one are missing, new or other than in the other out."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Literal

from attestation.tdx.eventlog import Event, EventLog

_TYPES = MappingProxyType(
    {
        0x4: "EV_SEPARATOR",
        0x5: "EV_ACTION",
        0x6: "EV_EVENT_TAG",
        0xD: "EV_IPL",
        0x8000_0001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002: "EV_EFI_VARIABLE_BOOT",
        0x8000_0003: "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0006: "EV_EFI_GPT_EVENT",
        0x8000_0007: "EV_EFI_ACTION",
        0x8000_0008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009: "EV_EFI_HANDOFF_TABLES",
        0x8000_000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000B: "EV_EFI_HANDOFF_TABLES2",
        0x8000_000C: "EV_EFI_VARIABLE_BOOT2",
        0x8000_00E0: "EV_EFI_VARIABLE_AUTHORITY",
    }
)
"""TCG PC Client Platform Firmware Profile, section 10.4.1."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place at which a register was extended otherwise than the reference was."""

    rtmr: int
    position: int
    """Which extension of this register it is, from 0."""
    change: Literal["changed", "added", "removed"]
    expected: Event | None
    """What the reference has there; `None` where it has nothing."""
    actual: Event | None


def differences(log: EventLog, reference: EventLog) -> tuple[Difference, ...]:
    """Compare register by register; events are equal when type and digest are."""
    found: list[Difference] = []
    for rtmr in range(4):
        ours = [event for event in log.events if event.rtmr == rtmr]
        theirs = [event for event in reference.events if event.rtmr == rtmr]
        found += _of_register(rtmr, ours, theirs)
    return tuple(found)


def event_type_name(event: Event) -> str:
    """Return TCG's name of an event's type, or its number."""
    return _TYPES.get(event.event_type, f"{event.event_type:#x}")


def _of_register(rtmr: int, ours: list[Event], theirs: list[Event]) -> list[Difference]:
    def keys(events: list[Event]) -> list[tuple[int, bytes]]:
        return [(event.event_type, event.digest) for event in events]

    found: list[Difference] = []
    matcher = SequenceMatcher(None, keys(theirs), keys(ours), autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        expected, actual = theirs[i1:i2], ours[j1:j2]
        paired = min(len(expected), len(actual))
        found += [
            Difference(rtmr, j1 + k, "changed", expected[k], actual[k]) for k in range(paired)
        ]
        found += [
            Difference(rtmr, i1 + k, "removed", expected[k], None)
            for k in range(paired, len(expected))
        ]
        found += [
            Difference(rtmr, j1 + k, "added", None, actual[k]) for k in range(paired, len(actual))
        ]
    return found
