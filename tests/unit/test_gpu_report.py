"""Device reports are read to the last byte, and say nothing before their signature holds."""

from dataclasses import replace

import pytest

from attestation.errors import Malformed, NotAuthentic, Refusal
from attestation.gpu.der import elements, firmware_id
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.report import MAX_REPORT, Field, Kind, Mode, ReportFrame
from attestation.simulator.nvidia import SWITCHES
from attestation.simulator.nvidia_pki import derived_key, raw_signature
from attestation.simulator.nvidia_report import GPU_IDS, SWITCH_IDS, DeviceState

KEY = derived_key(b"seed", "device")
NONCE = bytes(range(32))
GPU = DeviceState()


def sign(state=GPU, *, cut=0, more=b""):
    unsigned = state.unsigned(NONCE)
    unsigned = unsigned[: len(unsigned) - cut] + more
    return unsigned + raw_signature(KEY, unsigned)


def read(data, kind=Kind.GPU):
    return ReportFrame.parse(data, kind=kind).verified(KEY.public_key())


def refused(data, kind=Kind.GPU):
    with pytest.raises(Refusal) as refusal:
        read(data, kind)
    return type(refusal.value), refusal.value.code


MALFORMED = (Malformed, "gpu-malformed")


def opaque(**fields):
    return sign(replace(GPU, opaque={Field[name].value: value for name, value in fields.items()}))


def test_a_gpu_states_what_it_was_made_to_state():
    report = read(sign())
    assert report.nonce == NONCE
    assert (report.driver, report.vbios) == ("570.124.06", "96.00.C1.00.04")
    assert report.board == ("G520", "0200", "885")
    assert report.measurements == GPU.measurements
    assert (report.mode, report.protected_pcie) == (Mode.PROTECTED_PCIE, True)
    assert report.nvdec0 is False
    assert report.switch_pdis == frozenset(SWITCH_IDS)


def test_a_switch_states_itself_and_the_gpus_it_serves():
    report = read(sign(SWITCHES[2]), Kind.SWITCH)
    assert report.switch_pdis == {SWITCH_IDS[2]}
    assert report.gpu_pdis == frozenset(GPU_IDS)
    assert (report.driver, report.vbios) == (None, "96.10.6D.00.01")


def test_a_report_without_a_feature_flag_is_of_no_stated_mode():
    assert read(opaque(FEATURE=None)).mode is Mode.UNSTATED


def test_what_is_not_signed_by_the_key_says_nothing():
    frame = ReportFrame.parse(sign(), kind=Kind.GPU)
    with pytest.raises(NotAuthentic, match="gpu-signature"):
        frame.verified(derived_key(b"seed", "other").public_key())


@pytest.mark.parametrize("size", [0, 1, 36, 37, 44, 45, 1000, 3800])
def test_a_cut_report_is_refused(size):
    assert refused(sign()[:size]) == MALFORMED


@pytest.mark.parametrize("more", [b"\0", b"\0" * 96, b"more"])
def test_bytes_after_a_report_are_refused(more):
    assert refused(sign() + more) == MALFORMED


@pytest.mark.parametrize("size", [0, 32, 256])
def test_bytes_that_were_signed_too_are_refused_where_no_field_is(size):
    assert refused(sign(more=bytes(size + 1))) == MALFORMED


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x10), (1, 0xE1), (2, 0), (3, 1), (37, 0x12), (38, 0x7F), (41, 63), (41, 65), (42, 0)],
)
def test_another_message_than_a_measurements_answer_is_refused(at, value):
    data = bytearray(sign())
    data[at] = value
    assert refused(bytes(data)) == MALFORMED


@pytest.mark.parametrize(
    "fields",
    [
        {"DRIVER": None},
        {"DRIVER": b""},
        {"DRIVER": b"570 \0"},
        {"DRIVER": b"570\0.124"},
        {"DRIVER": b"5" * 33},
        {"DRIVER": b"\xff"},
        {"VBIOS": None},
        {"VBIOS": bytes(7)},
        {"VBIOS": bytes(7) + b"\1"},
        {"PROJECT": None},
        {"NVDEC0": b"\x54"},
        {"NVDEC0": b""},
        {"NVDEC0": b"\x55\x55"},
        {"PROTECTED_PCIE": b"\1"},
        {"FWID": bytes(47)},
        {"PDI": bytes(7)},
        {"PDI": bytes(65 * 8)},
        {"FEATURE": b"\3\0"},
        {"FEATURE": b"\2"},
        {"FEATURE": b"\2\1"},
        {"CHIP": b"GB 100"},
    ],
)
def test_a_field_that_is_not_as_devices_write_it_is_refused(fields):
    assert refused(opaque(**fields)) == MALFORMED


def test_a_field_that_occurs_twice_is_refused():
    twice = replace(GPU, opaque={255: b"\0\0" + (11).to_bytes(2, "little") + b"\1\0\xaa"})
    assert read(sign(twice))  # inside another field it is no field
    unsigned = GPU.unsigned(NONCE)
    field = (11).to_bytes(2, "little") + b"\1\0\xaa"
    at = len(unsigned) - _opaque_size()
    size = (_opaque_size() + len(field)).to_bytes(2, "little")
    doubled = unsigned[: at - 2] + size + unsigned[at:] + field
    assert refused(doubled + raw_signature(KEY, doubled)) == MALFORMED


def _opaque_size():
    sizes = [len(value) + 4 for value in GPU._fields().values()]
    return sum(sizes)


def test_a_field_of_a_newer_driver_is_signed_and_ignored():
    assert read(sign(replace(GPU, opaque={4096: b"new"}))).driver == "570.124.06"


@pytest.mark.parametrize("ids", [(), SWITCH_IDS[:2], (bytes(8),)])
def test_a_switch_has_one_identity(ids):
    assert refused(sign(replace(SWITCHES[0], switch_ids=ids)), Kind.SWITCH) == MALFORMED


def test_a_report_without_measurements_is_refused():
    assert refused(sign(replace(GPU, measurements=()))) == MALFORMED


def test_a_report_larger_than_any_is_not_read():
    assert refused(bytes(MAX_REPORT + 1)) == (Malformed, "too-large")


@pytest.mark.parametrize("token", [b"{}", b'[["JWT", "e30.e30."]]', b"  {"])
def test_an_unsigned_token_is_named_as_one(token):
    assert refused(token) == (Malformed, "gpu-token")


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x81\x01\x00",
        b"\x30\x82\x00\x80" + bytes(128),
        b"\x30\x83\x00\x00\x00",
        b"\x30\x05\x00",
        b"\x3f\x01\x00",
        b"\x30\x00",
        b"\x30\x00\x30\x00",
        b"\x04\x30" + bytes(48),
        b"\x30\x09\x02\x01\x01\x30\x00\x30\x02\x06\x00",
        b"\x30\x02\xa6\x00",
        b"\x30\x04\xa6\x02\x30\x00",
    ],
)
def test_a_dice_extension_of_another_shape_names_no_firmware(der):
    with pytest.raises(Malformed, match="gpu-malformed"):
        firmware_id(der)


def test_elements_fill_their_bytes_exactly():
    assert elements(b"\x02\x01\x07\x04\x00") == ((0x02, b"\x07"), (0x04, b""))


# -- the evidence set and the store of endorsements


def test_an_evidence_set_has_one_text():
    from tests.gpu_world import baseboard

    evidence = baseboard(NONCE)
    data = evidence.to_bytes()
    assert GpuEvidence.parse(data) == evidence
    for other in (b" " + data, data.replace(b'"version":1', b'"version": 1')):
        with pytest.raises(Malformed, match="gpu-not-canonical"):
            GpuEvidence.parse(other)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-malformed"),
        (b"{}", "field-invalid"),
        (b"[]", "field-invalid"),
        (b'{"devices":[],"version":1}', "field-invalid"),
        (b'{"devices":[],"devices":[],"version":1}', "json-malformed"),
        (b"{" + b" " * 1024 * 1024, "too-large"),
    ],
)
def test_an_evidence_set_of_another_shape_is_refused(data, code):
    with pytest.raises(Malformed) as refusal:
        GpuEvidence.parse(data)
    assert refusal.value.code == code


def test_an_empty_store_is_no_bytes_and_a_full_one_reads_as_written():
    assert GpuEndorsements.parse(b"") == GpuEndorsements({}, ())
    full = GpuEndorsements.of({"NV_GPU_DRIVER_GH100_1": b"<a/>"}, [b"\1"])
    assert GpuEndorsements.parse(full.to_bytes()) == full


@pytest.mark.parametrize(
    "data",
    [
        b'{"version":1,"rims":{"../../etc":""},"ocsp":[]}',
        b'{"version":1,"rims":{},"ocsp":["a"]}',
        b'{"version":1,"rims":{},"ocsp":[],"more":1}',
        b'{"version":2,"rims":{},"ocsp":[]}',
    ],
)
def test_a_store_of_another_shape_is_refused(data):
    with pytest.raises(Malformed, match="field-invalid"):
        GpuEndorsements.parse(data)
