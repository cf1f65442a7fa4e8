import hashlib
import json
import struct

import pytest

from attestation.errors import Malformed, NotAuthentic, Refusal
from attestation.tdx.eventlog import EventLog, RuntimeEvent, encode_runtime_event

SPEC_ID = (
    struct.pack("<II20sI", 1, 3, bytes(20), 33)
    + b"Spec ID Event03\0"
    + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0x0C, 48, 0)
)
EVENT = ("tacit.inference/v1", "model", "qwen3=sha256:" + "ab" * 32)


def record(index, kind, data, *, digest=None, algorithm=0x0C, count=1):
    digest = hashlib.sha384(data).digest() if digest is None else digest
    head = struct.pack("<IIIH", index, kind, count, algorithm)
    return head + digest + struct.pack("<I", len(data)) + data


def refused(code, log, kind=Malformed):
    with pytest.raises(kind) as refusal:
        EventLog.parse(log).runtime_events()
    assert refusal.value.code == code


def test_a_log_of_the_header_alone_replays_to_zero():
    log = EventLog.parse(SPEC_ID)
    assert log.replay() == (bytes(48),) * 4
    assert log.used == len(SPEC_ID)


def test_events_extend_the_register_their_index_names():
    log = EventLog.parse(SPEC_ID + record(1, 0xA, b"a") + record(3, 0xD, b"b"))
    digest = hashlib.sha384(bytes(48) + hashlib.sha384(b"a").digest()).digest()
    assert log.replay()[0] == digest
    assert log.replay()[1] == bytes(48)
    assert log.replay()[2] != bytes(48)


def test_an_event_of_no_action_is_not_measured():
    log = EventLog.parse(SPEC_ID + record(1, 0x3, b"StartupLocality"))
    assert log.events == ()


def test_a_runtime_event_comes_back_as_it_was_measured():
    log = EventLog.parse(SPEC_ID + encode_runtime_event(*EVENT))
    assert log.runtime_events() == (RuntimeEvent(*EVENT),)
    extended = hashlib.sha384(bytes(48) + RuntimeEvent(*EVENT).digest).digest()
    assert log.replay()[3] == extended


def test_content_may_hold_spaces_and_other_scripts():
    event = RuntimeEvent("domain", "operation", "a b  ü")
    log = EventLog.parse(SPEC_ID + encode_runtime_event("domain", "operation", "a b  ü"))
    assert log.runtime_events() == (event,)


def test_a_runtime_event_on_another_register_is_no_runtime_event():
    data = RuntimeEvent(*EVENT).data
    log = EventLog.parse(SPEC_ID + record(3, 0x6, data))
    assert log.runtime_events() == ()


def test_other_measurements_of_rtmr3_are_counted_as_unexplained():
    log = EventLog.parse(SPEC_ID + record(4, 0xD, b"x") + encode_runtime_event(*EVENT))
    assert log.summary().unexplained_rtmr3 == 1
    assert log.summary().count == 2


def test_separators_are_counted_for_each_register():
    zero = bytes(4)
    log = EventLog.parse(SPEC_ID + record(1, 4, zero) + record(2, 4, zero) + record(2, 4, zero))
    assert log.summary().duplicate_separators == (1,)


@pytest.mark.parametrize(("rtmr", "most"), [(0, 2), (1, 5), (2, 8), (3, 0)])
def test_a_register_is_separated_no_more_often_than_it_stands_for_pcrs(rtmr, most):
    one = record(rtmr + 1, 4, b"\xff" * 4)
    assert len(EventLog.parse(SPEC_ID + one * most).events) == most
    refused("eventlog-separator", SPEC_ID + one * (most + 1))


@pytest.mark.parametrize("data", [b"\x01\0\0\0", b"", bytes(5), b"WXYZ"])
def test_a_separator_that_tells_of_an_error_is_refused(data):
    refused("eventlog-separator", SPEC_ID + record(1, 4, data))


@pytest.mark.parametrize(
    ("digest", "count", "code"),
    [
        (hashlib.sha384(bytes(4)), 3, "eventlog-separator"),
        (hashlib.sha384(), 1, "eventlog-payload"),
    ],
)
def test_separators_of_a_json_log_are_held_to_the_same(digest, count, code):
    entry = {"imr": 0, "event_type": 4, "event": "", "event_payload": "00000000"}
    with pytest.raises(Refusal) as refusal:
        EventLog.parse_dstack(json.dumps([entry | {"digest": digest.hexdigest()}] * count).encode())
    assert refusal.value.code == code


def test_a_payload_that_was_not_measured_is_refused():
    data = RuntimeEvent(*EVENT).data
    log = SPEC_ID + record(4, 0x6, data, digest=hashlib.sha384(b"other").digest())
    refused("eventlog-payload", log, NotAuthentic)


def test_a_separator_that_was_not_measured_is_refused():
    log = SPEC_ID + record(1, 4, bytes(4), digest=bytes(48))
    refused("eventlog-payload", log, NotAuthentic)


@pytest.mark.parametrize(
    "text", [b"domain operation", b"domain  content", b"", b"a b c\n", b"a b \xff", b"a b "]
)
def test_a_runtime_event_of_another_form_is_refused(text):
    data = struct.pack("<II", 0x4141454C, len(text)) + text
    refused("eventlog-event", SPEC_ID + record(4, 0x6, data))


def test_a_runtime_event_whose_size_lies_is_refused():
    data = struct.pack("<II", 0x4141454C, 4) + b"a b c"
    refused("eventlog-event", SPEC_ID + record(4, 0x6, data))


@pytest.mark.parametrize(
    "words", [("a b", "o", "c"), ("d", "", "c"), ("d", "o", ""), ("d", "o\n", "c")]
)
def test_an_ambiguous_event_cannot_be_written(words):
    with pytest.raises(Malformed) as refusal:
        encode_runtime_event(*words)
    assert refusal.value.code == "eventlog-event"


def test_filler_ends_the_log():
    log = SPEC_ID + encode_runtime_event(*EVENT)
    filled = EventLog.parse(log + b"\xff" * 999)
    assert filled.events == EventLog.parse(log).events
    assert filled.used == len(log)


def test_an_event_hidden_behind_the_filler_is_refused():
    refused("eventlog-malformed", SPEC_ID + b"\xff" * 64 + encode_runtime_event(*EVENT))


@pytest.mark.parametrize("cut", [1, 20, 32, 64, 66, 80, 140])
def test_a_cut_log_is_refused(cut):
    refused("eventlog-malformed", (SPEC_ID + encode_runtime_event(*EVENT))[:cut])


@pytest.mark.parametrize(
    "log",
    [
        SPEC_ID + record(0, 0xA, b"extends MRTD"),
        SPEC_ID + record(5, 0xA, b"extends nothing"),
        SPEC_ID + record(1, 0xA, b"sha-256", digest=bytes(32), algorithm=0x0B),
        SPEC_ID + record(1, 0xA, b"two digests", count=2),
        SPEC_ID + record(1, 0xA, b"no digest", count=0),
        SPEC_ID + struct.pack("<IIIH48sI", 1, 0xA, 1, 0x0C, bytes(48), 0xFFFFFFFF),
        SPEC_ID.replace(b"Event03", b"Event02"),
        SPEC_ID.replace(struct.pack("<IHH", 1, 0x0C, 48), struct.pack("<IHH", 1, 0x0B, 32)),
        SPEC_ID[:4] + b"\x04" + SPEC_ID[5:],
        b"",
    ],
)
def test_a_log_of_another_shape_is_refused(log):
    refused("eventlog-malformed", log)


def test_a_log_larger_than_any_firmware_writes_is_refused():
    refused("too-large", SPEC_ID + b"\xff" * (1024 * 1024))


def test_a_log_of_very_many_events_is_refused():
    refused("too-large", SPEC_ID + record(1, 0xA, b"") * 5000)


def dstack(**changed):
    entry = {"imr": 3, "event_type": 0x08000001, "event": "app-id", "event_payload": "00ff"}
    entry["digest"] = hashlib.sha384(b"\x01\x00\x00\x08:app-id:\x00\xff").hexdigest()
    return json.dumps([entry | changed]).encode()


def test_a_dstack_event_comes_back_as_it_was_measured():
    events = EventLog.parse_dstack(dstack()).runtime_events()
    assert events == (RuntimeEvent("dstack", "app-id", "hex:00ff"),)


@pytest.mark.parametrize(
    "changed",
    [
        {"imr": 4},
        {"imr": -1},
        {"imr": "3"},
        {"digest": "00"},
        {"digest": "zz" * 48},
        {"event_payload": "0"},
        {"event_payload": "zz"},
        {"event": "a:b"},
        {"extra": 1},
        {"event_type": 1 << 32},
    ],
)
def test_a_dstack_entry_of_another_shape_is_refused(changed):
    with pytest.raises(Malformed):
        EventLog.parse_dstack(dstack(**changed))


def test_a_dstack_name_that_was_not_measured_is_refused():
    log = EventLog.parse_dstack(dstack(event="app_id"))
    with pytest.raises(NotAuthentic) as refusal:
        log.runtime_events()
    assert refusal.value.code == "eventlog-payload"
