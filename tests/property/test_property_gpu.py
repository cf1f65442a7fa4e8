"""Hostile bytes for GPU parsers; and no flipped bit of a genuine report or manifest is accepted."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import Refusal
from attestation.gpu.chain import DEVICE_CODES, Chain, Link, Proven
from attestation.gpu.der import firmware_id
from attestation.gpu.evidence import DeviceEvidence, GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import Responses
from attestation.gpu.report import Kind, ReportFrame
from attestation.gpu.rim import Rim
from attestation.gpu.verify import Device, nvidia_roots, verify_gpu
from tests.gpu_vectors import INSIDE, at, device
from tests.gpu_world import NOW, SINGLE, nvidia
from tests.shared_data import vectors

SAMPLE = 250
ROOTS = nvidia_roots()
FULL = "gpu-hopper-545-full-match"
MOMENT = datetime.fromtimestamp(INSIDE, UTC)

PARSERS = {
    "GPU report": lambda data: ReportFrame.parse(data, kind=Kind.GPU),
    "switch report": lambda data: ReportFrame.parse(data, kind=Kind.SWITCH),
    "manifest": lambda data: Rim.verify(data, root_der=ROOTS.rim_der, now=NOW, proven=Proven()),
    "OCSP response": lambda data: Responses.parse([data]),
    "DICE extension": firmware_id,
    "evidence set": GpuEvidence.parse,
    "endorsements": GpuEndorsements.parse,
    "certificate": lambda data: Link.read(data, what="certificate"),
    "chain": lambda data: Chain.verify(
        [data, ROOTS.device_der],
        root_der=ROOTS.device_der,
        now=NOW,
        codes=DEVICE_CODES,
        what="chain",
        proven=Proven(),
    ),
}


def ends_well(act, data):
    """Only a refusal may come out of hostile bytes, besides a value."""
    try:
        act(data)
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=2048))
def test_any_bytes_are_parsed_or_refused(name, data):
    ends_well(PARSERS[name], data)


def genuine(name):
    """Return bytes that the parser called `name` accepts, to be damaged."""
    evidence = GpuEvidence((nvidia().device(SINGLE, unit="gpu 0", nonce=bytes(32)),))
    store = nvidia().endorsements(evidence, state=SINGLE)
    leaf = nvidia().chain("GH100", "gpu 0", fwid=SINGLE.fwid)[0]
    (dice,) = [e for e in leaf.certificate.extensions if e.oid.dotted_string == "2.23.133.5.4.1"]
    return {
        "GPU report": evidence.devices[0].report,
        "switch report": nvidia().evidence(bytes(32), gpus=0, switches=1).devices[0].report,
        "manifest": next(iter(store.rims.values())),
        "OCSP response": store.ocsp[0],
        "DICE extension": dice.value.public_bytes(),
        "evidence set": evidence.to_bytes(),
        "endorsements": store.to_bytes(),
        "certificate": leaf.der,
        "chain": leaf.der,
    }[name]


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_damaged_bytes_are_parsed_or_refused(name, data):
    whole = bytearray(GENUINE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not whole:
            return
    ends_well(PARSERS[name], bytes(whole))


GENUINE = {name: genuine(name) for name in PARSERS}


def flips(data, *, sample):
    """Return `sample` positions of single bits, the same in every run; all of them for `None`."""
    bits = range(len(data) * 8)
    return bits if sample is None else random.Random(len(data)).sample(bits, sample)  # noqa: S311 - reproducible


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def check_report(data, *, arch="hopper", folder=FULL):
    evidence = device(folder, arch)
    Device.authenticate(
        DeviceEvidence(Kind.GPU, arch, data, evidence.certificates),
        nonce=None,
        root_der=ROOTS.device_der,
        now=MOMENT,
        proven=Proven(),
    )


def check_rim(data):
    Rim.verify(data, root_der=ROOTS.rim_der, now=at(INSIDE), proven=Proven())


FLIPS = {
    "report": ("report.bin", check_report),
    "driver manifest": ("driver_rim.xml", check_rim),
    "VBIOS manifest": ("vbios_rim.xml", check_rim),
}


def accepted_flips(name, *, sample):
    file, check = FLIPS[name]
    data = vectors(FULL, file).read_bytes()
    check(data)
    return [bit for bit in flips(data, sample=sample) if ends_well(check, flipped(data, bit))]


@pytest.mark.parametrize("name", FLIPS)
def test_no_flipped_bit_of_genuine_bytes_is_accepted(name):
    assert accepted_flips(name, sample=SAMPLE) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FLIPS)
def test_no_flipped_bit_of_genuine_bytes_is_accepted_anywhere(name):
    assert accepted_flips(name, sample=None) == []


def test_no_flipped_bit_of_genuine_certificates_is_accepted():
    honest = device(FULL)
    pem = honest.certificates.encode()

    def check(data):
        evidence = DeviceEvidence(Kind.GPU, "hopper", honest.report, data.decode("latin-1"))
        Device.authenticate(
            evidence, nonce=None, root_der=ROOTS.device_der, now=MOMENT, proven=Proven()
        )

    check(pem)
    assert [b for b in flips(pem, sample=SAMPLE) if ends_well(check, flipped(pem, b))] == []


def test_no_flipped_bit_of_an_ocsp_response_gives_claims():
    evidence = GpuEvidence((nvidia().device(SINGLE, unit="gpu 0", nonce=bytes(32)),))
    store = nvidia().endorsements(evidence, state=SINGLE)

    def check(data):
        changed = GpuEndorsements(store.rims, (data, *store.ocsp[1:]))
        verify_gpu(evidence, changed, nonce=bytes(32), roots=nvidia().roots, now=NOW)

    check(store.ocsp[0])
    bits = flips(store.ocsp[0], sample=60)
    assert [b for b in bits if ends_well(check, flipped(store.ocsp[0], b))] == []
