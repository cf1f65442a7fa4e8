"""A TCG2 crypto-agile event log (CCEL) in, the RTMRs it explains and our runtime events out."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from attestation.codec import Document, parse_json, unhex
from attestation.errors import Malformed, NotAuthentic

MAX_EVENT_LOG = 1024 * 1024
"""Largest log read, in bytes; the firmware area of real guests is 64 to 256 KiB."""
MAX_EVENTS = 4096

RTMR_SIZE = 48
_NO_ACTION, _SEPARATOR, _EVENT_TAG = 0x3, 0x4, 0x6
_SHA384 = 0x000C
_EVENT_HEAD = struct.Struct("<IIIH48sI")
"""Register, type, one digest: SHA-384, size of the data that follows."""
_SPEC_ID = b"Spec ID Event03\0"
_FILL = 0xFF
_AAEL = 0x4141454C
"""Attestation Agent Event Log, the tag CoCo guests give their runtime events."""
_DSTACK = 0x0800_0001
_RTMR3 = 3
_SEPARATED = (bytes(4), b"\xff" * 4)
"""What a separator says where no error came before it (PFP, EV_SEPARATOR); 1 tells of one."""
_PCRS = (2, 5, 8, 0)
"""PCRs that each register stands for (UEFI, CC measurement): 1 and 7, 2 to 6, 8 to 15, none."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """What a guest measured after boot, in the AAEL form of CoCo: `domain operation content`."""

    domain: str
    operation: str
    content: str

    def __post_init__(self) -> None:
        words = (self.domain, self.operation, self.content)
        if not all(words) or any(" " in word for word in words[:2]):
            raise Malformed("eventlog-event", "a runtime event is `domain operation content`")
        if not all(word.isprintable() for word in words):
            raise Malformed("eventlog-event", "a runtime event has unprintable characters")

    @property
    def data(self) -> bytes:
        """TCG_PCClientTaggedEvent: u32 tag, u32 size, text."""
        text = f"{self.domain} {self.operation} {self.content}".encode()
        return struct.pack("<II", _AAEL, len(text)) + text

    @property
    def digest(self) -> bytes:
        """The 48 bytes RTMR3 is extended with: SHA-384 of `data`."""
        return hashlib.sha384(self.data).digest()


class Event(NamedTuple):
    """One measurement: the register, its TCG event type, what was extended and what explains it.

    A tuple, because a boot logs a hundred and each verification makes them all.
    """

    rtmr: int
    event_type: int
    digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class EventSummary:
    """What a replayed log says about itself; `present` is false where the guest sent none."""

    present: bool
    count: int
    duplicate_separators: tuple[int, ...]
    """RTMRs 0..2 separated more than once. Older OVMF does so on RTMR0 (its PCR 1 and PCR 7)."""
    unexplained_rtmr3: int
    """Events on RTMR3 in neither form, whose meaning nobody has recomputed."""


Registers = tuple[bytes, bytes, bytes, bytes]
"""RTMR0..3, 48 bytes each."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a log says whose replay gave the registers of a verified quote."""

    registers: Registers
    runtime: tuple[RuntimeEvent, ...]
    summary: EventSummary


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log; it proves nothing until its replay equals the registers of a verified quote."""

    events: tuple[Event, ...]
    used: int
    """Bytes of the log before the filler; where the next event is to be appended."""

    @classmethod
    def parse(cls, data: bytes) -> EventLog:
        """Parse TCG PC Client Platform Firmware Profile section 10 as UEFI's CC measurement does.

        TDX measures with SHA-384 alone; EV_NO_ACTION events are not measured; 0xFF fills the tail.
        Raises `Malformed` `eventlog-malformed`, `eventlog-separator` or `too-large`, and
        `NotAuthentic` `eventlog-payload` for a separator that is not what was extended.
        """
        if len(data) > MAX_EVENT_LOG:
            raise Malformed("too-large", f"event log of {len(data)} bytes, limit {MAX_EVENT_LOG}")
        cursor = _Cursor(data)
        _read_spec_id(cursor)
        events: list[Event] = []
        at, last = cursor.at, len(data) - 5
        for _ in range(MAX_EVENTS):
            if (at > last or data[at] == _FILL) and _at_filler(data, at):
                break
            event, at = _event(data, at)
            if event is not None:
                events.append(event)
        if not _at_filler(data, at):
            raise Malformed("too-large", f"event log of more than {MAX_EVENTS} events")
        _check_separators(events)
        return cls(tuple(events), at)

    @classmethod
    def parse_dstack(cls, data: bytes) -> EventLog:
        """Parse the JSON log of a dstack guest: entries of imr, event_type, digest, event, payload.

        dstack extends RTMR3 with SHA-384 of `type LE u32 ":" name ":" payload`; that preimage is
        kept as the event's data, so that `runtime_events` recomputes it.
        """
        parse_json(data, limit=MAX_EVENT_LOG)
        try:
            entries = _DSTACK_LOG.validate_json(data)
        except ValidationError:
            raise Malformed("eventlog-malformed", "not a list of dstack events") from None
        if len(entries) > MAX_EVENTS:
            raise Malformed("too-large", f"event log of more than {MAX_EVENTS} events")
        events = tuple(entry.event_of() for entry in entries)
        _check_separators(events)
        return cls(events, len(data))

    def replay(self) -> Registers:
        """Return RTMR0..3 as the events extend them: `SHA-384(register ‖ digest)` from zero."""
        registers = [bytes(RTMR_SIZE)] * 4
        extend = hashlib.sha384
        for event in self.events:
            registers[event.rtmr] = extend(registers[event.rtmr] + event.digest).digest()
        return (registers[0], registers[1], registers[2], registers[3])

    def runtime_events(self) -> tuple[RuntimeEvent, ...]:
        """Return the AAEL and dstack events of RTMR3, each digest recomputed from its payload.

        dstack's are in the domain `dstack` with content `hex:<payload>`. Raises `NotAuthentic`
        `eventlog-payload` when a payload is not what was extended.
        """
        return tuple(
            _runtime(event) for event in self.events if event.rtmr == _RTMR3 and _is_runtime(event)
        )

    def summary(self) -> EventSummary:
        """Return what appraisal needs to know about the log as a whole."""
        separated = [event.rtmr for event in self.events if event.event_type == _SEPARATOR]
        last = [event for event in self.events if event.rtmr == _RTMR3]
        return EventSummary(
            present=True,
            count=len(self.events),
            duplicate_separators=tuple(r for r in range(_RTMR3) if separated.count(r) > 1),
            unexplained_rtmr3=sum(not _is_runtime(event) for event in last),
        )


NO_EVENTS = EventSummary(present=False, count=0, duplicate_separators=(), unexplained_rtmr3=0)
"""The summary of evidence that came without a log."""


def encode_runtime_event(domain: str, operation: str, content: str) -> bytes:
    """Return the log record to append for an event: TCG_PCR_EVENT2 on RTMR3 with SHA-384."""
    event = RuntimeEvent(domain, operation, content)
    data = event.data
    head = _EVENT_HEAD.pack(_RTMR3 + 1, _EVENT_TAG, 1, _SHA384, event.digest, len(data))
    return head + data


class _Cursor:
    """Reads little-endian fields in order and never past the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise Malformed("eventlog-malformed", f"a field of {size} bytes at {self.at} is cut")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def _at_filler(data: bytes, at: int) -> bool:
    """Say whether only filler is left; refuse anything hidden behind the first filler word."""
    rest = len(data) - at
    if data[at : at + 4] != b"\xff" * min(rest, 4):
        return False
    if data.count(b"\xff", at) != rest:
        raise Malformed("eventlog-malformed", f"bytes follow the filler at {at}")
    return True


def _read_spec_id(cursor: _Cursor) -> None:
    """Read the TCG_EfiSpecIDEvent header, which must name SHA-384 as the only digest."""
    index, event_type = cursor.number(4), cursor.number(4)
    digest, body = cursor.take(20), _Cursor(cursor.take(cursor.number(4)))
    if index > 1 or event_type != _NO_ACTION or digest != bytes(20):  # real firmware writes 1
        raise Malformed("eventlog-malformed", "the first event is not a Spec ID event")
    signature, _, minor, major = body.take(16), body.number(4), body.number(1), body.number(1)
    if signature != _SPEC_ID or (major, minor) != (2, 0):
        raise Malformed("eventlog-malformed", "not a crypto-agile log of version 2.0")
    body.take(2)  # errata and the firmware's word size
    # Digests of other algorithms would be bytes that no register vouches for.
    if body.take(8) != struct.pack("<IHH", 1, _SHA384, RTMR_SIZE):
        raise Malformed("eventlog-malformed", "the log has other digests than SHA-384")
    body.take(body.number(1))  # vendor information
    if body.at != len(body.data):
        raise Malformed("eventlog-malformed", "the Spec ID event has trailing bytes")


def _event(log: bytes, start: int) -> tuple[Event | None, int]:
    """Read the TCG_PCR_EVENT2 at `start` (`None` where it was not measured) and where it ends."""
    at = start + _EVENT_HEAD.size
    if at > len(log):
        raise Malformed("eventlog-malformed", f"the event at {start} is cut")
    index, event_type, count, algorithm, digest, size = _EVENT_HEAD.unpack_from(log, start)
    if (count, algorithm) != (1, _SHA384):
        raise Malformed(
            "eventlog-malformed", f"the event at {start} has other digests than SHA-384"
        )
    end = at + size
    if end > len(log):
        raise Malformed("eventlog-malformed", f"the data of the event at {start} is cut")
    if event_type == _NO_ACTION:
        return None, end
    if not 1 <= index <= 4:  # index 0 is MRTD, which nothing can extend
        raise Malformed("eventlog-malformed", f"the event at {start} extends no RTMR")
    return Event(index - 1, event_type, digest, log[at:end]), end


def _check_separators(events: Sequence[Event]) -> None:
    """Refuse a log whose firmware says that it failed, or ended a phase more often than it can.

    The firmware separates each PCR once (PFP, EV_SEPARATOR); a register stands for several PCRs.
    """
    separators = [event for event in events if event.event_type == _SEPARATOR]
    for event in separators:
        if not _explains(event):
            why = f"a separator of RTMR{event.rtmr} is not what was extended"
            raise NotAuthentic("eventlog-payload", why)
        if event.data not in _SEPARATED:
            why = f"a separator of RTMR{event.rtmr} tells of an error of the firmware"
            raise Malformed("eventlog-separator", why)
    for rtmr, most in enumerate(_PCRS):
        count = sum(event.rtmr == rtmr for event in separators)
        if count > most:
            why = f"RTMR{rtmr} is separated {count} times, and stands for {most} PCRs"
            raise Malformed("eventlog-separator", why)


def _is_runtime(event: Event) -> bool:
    """Say whether an event of RTMR3 is in one of the two forms we can recompute."""
    tagged = event.event_type == _EVENT_TAG and event.data[:4] == _AAEL.to_bytes(4, "little")
    return tagged or event.event_type == _DSTACK


def _runtime(event: Event) -> RuntimeEvent:
    if not _explains(event):
        raise NotAuthentic(
            "eventlog-payload", "a runtime event is not what RTMR3 was extended with"
        )
    if event.event_type == _DSTACK:
        return _dstack_event(event)
    text = event.data[8:]
    if len(event.data) < 8 or int.from_bytes(event.data[4:8], "little") != len(text):
        raise Malformed("eventlog-event", f"a runtime event of {len(event.data)} bytes is cut")
    words = _text(text).split(" ", 2)
    if len(words) != 3:
        raise Malformed("eventlog-event", "a runtime event is `domain operation content`")
    return RuntimeEvent(*words)


def _dstack_event(event: Event) -> RuntimeEvent:
    kind, _, rest = event.data.partition(b":")
    name, colon, payload = rest.partition(b":")
    if kind != _DSTACK.to_bytes(4, "little") or not colon:
        raise Malformed("eventlog-event", "a dstack event is `type:name:payload`")
    return RuntimeEvent("dstack", _text(name), f"hex:{payload.hex()}")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed("eventlog-event", "a runtime event is not UTF-8") from None


def _explains(event: Event) -> bool:
    return hmac.compare_digest(event.digest, hashlib.sha384(event.data).digest())


class _DstackEntry(Document):
    """One entry of dstack's JSON log."""

    imr: Annotated[int, Field(ge=0, le=3)]
    event_type: Annotated[int, Field(ge=0, le=0xFFFF_FFFF)]
    digest: str
    event: str
    event_payload: str

    def event_of(self) -> Event:
        """Return the measurement; only runtime events have a payload that can be recomputed."""
        digest = unhex(self.digest, size=RTMR_SIZE, what="event digest")
        payload = unhex(self.event_payload, size=len(self.event_payload) // 2, what="event payload")
        if self.event_type == _DSTACK:
            if ":" in self.event:  # would make `name ":" payload` mean two things
                raise Malformed("eventlog-event", "a dstack event name has a colon")
            kind = _DSTACK.to_bytes(4, "little")
            payload = b":".join((kind, self.event.encode("utf-8", "surrogatepass"), payload))
        return Event(self.imr, self.event_type, digest, payload)


_DSTACK_LOG = TypeAdapter(list[_DstackEntry])
