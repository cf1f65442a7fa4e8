"""No flipped bit of a genuine GPU report, certificate, manifest or OCSP response is accepted."""

import random
from datetime import UTC, datetime

import pytest
from cryptography.x509.ocsp import load_der_ocsp_response

from attestation.errors import Malformed, Refusal
from attestation.gpu.chain import Proven
from attestation.gpu.evidence import DeviceEvidence, GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import Responses
from attestation.gpu.report import Kind
from attestation.gpu.rim import Rim
from attestation.gpu.verify import Device, nvidia_roots, verify_gpu
from tests.gpu_vectors import INSIDE, at, device
from tests.gpu_world import NOW, SINGLE, nvidia
from tests.shared_data import vectors

SAMPLE = 250
ROOTS = nvidia_roots()
FULL = "gpu-hopper-545-full-match"
MOMENT = datetime.fromtimestamp(INSIDE, UTC)


def ends_well(act, data):
    """Only a refusal may come out of hostile bytes, besides a value."""
    try:
        act(data)
    except Refusal:
        return False
    return True


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


@pytest.mark.parametrize("bit", [148082, 148083, 155986, 155987])
def test_a_certificate_has_one_form(bit):
    """Found by the exhaustive test: 1 or 2 unused bits of a signature whose last bits are zero."""
    file, check = FLIPS["driver manifest"]
    with pytest.raises(Malformed):
        check(flipped(vectors(FULL, file).read_bytes(), bit))


def test_an_ocsp_response_has_one_form():
    evidence = GpuEvidence((nvidia().device(SINGLE, unit="gpu 0", nonce=bytes(32)),))
    der = nvidia().endorsements(evidence, state=SINGLE).ocsp[0]
    signature = load_der_ocsp_response(der).signature
    at = 8 * (der.index(signature) - 1)
    Responses.parse([der])
    for bit in range(3):
        with pytest.raises(Malformed):
            Responses.parse([flipped(der, at + bit)])


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
