"""NVIDIA's genuine devices and manifests: each folder of vectors has its verdict, with the code."""

import hashlib
import json
from pathlib import Path

import pytest

from attestation.errors import Refusal
from attestation.gpu.chain import Proven
from attestation.gpu.der import firmware_id
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.ocsp import Responses
from attestation.gpu.report import Kind, Mode
from attestation.gpu.rim import Rim
from attestation.gpu.verify import (
    Device,
    check_set,
    judge,
    nvidia_roots,
    require_complete,
    revocation_words,
)
from tests import gpu_vectors
from tests.gpu_vectors import INSIDE, at, baseboard, device
from tests.shared_data import vectors

ROOTS = nvidia_roots()
FULL = "gpu-hopper-545-full-match"
RIM_550 = "rim-driver-550"


def authentic(evidence, *, nonce=None, now=INSIDE):
    return Device.authenticate(
        evidence, nonce=nonce, root_der=ROOTS.device_der, now=at(now), proven=Proven()
    )


def rim(folder, name, now):
    xml = vectors(folder, name).read_bytes()
    return Rim.verify(xml, root_der=ROOTS.rim_der, now=at(now), proven=Proven())


def code_of(act, *arguments, **options):
    try:
        act(*arguments, **options)
    except Refusal as refusal:
        return refusal.code
    return "authentic"


@pytest.mark.parametrize(
    ("folder", "arch", "now", "verdict"),
    [
        ("gpu-blackwell-575", "blackwell", INSIDE, "authentic"),
        ("gpu-blackwell-575", "blackwell", 1600000000, "gpu-certificate-time"),
        ("gpu-blackwell-575", "hopper", INSIDE, "gpu-role"),
        (FULL, "hopper", INSIDE, "authentic"),
        (FULL, "hopper", 1790000000, "authentic"),
        (FULL, "hopper", 1600000000, "gpu-certificate-time"),
        (FULL, "blackwell", INSIDE, "gpu-role"),
        ("gpu-hopper-invalid-signature", "hopper", INSIDE, "gpu-signature"),
        ("gpu-hopper-invalid-signature", "hopper", 1600000000, "gpu-certificate-time"),
    ],
)
def test_a_genuine_report_has_its_documented_verdict(folder, arch, now, verdict):
    assert code_of(authentic, device(folder, arch), now=now) == verdict


@pytest.mark.parametrize(
    ("folder", "name", "now", "verdict"),
    [
        (FULL, "driver_rim.xml", INSIDE, "authentic"),
        (FULL, "driver_rim.xml", 1687000000, "rim-expired"),
        (FULL, "driver_rim.xml", 1751000000, "rim-expired"),
        (FULL, "vbios_rim.xml", INSIDE, "authentic"),
        (FULL, "vbios_rim.xml", 1687000000, "rim-expired"),
        (FULL, "vbios_rim.xml", 1751000000, "rim-expired"),
        (RIM_550, "driver_550.144.03_valid.xml", 1767225600, "authentic"),
        (RIM_550, "driver_550.144.03_valid.xml", 1735000000, "rim-expired"),
        (RIM_550, "driver_550.144.03_valid.xml", 1799000000, "rim-expired"),
        (RIM_550, "driver_550.144.03_bad_signature.xml", 1767225600, "rim-signature"),
        (RIM_550, "driver_550.144.03_bad_signature.xml", 1799000000, "rim-expired"),
    ],
)
def test_a_genuine_manifest_has_its_documented_verdict(folder, name, now, verdict):
    assert code_of(rim, folder, name, now) == verdict


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("case1_valid.pem", "gpu-signature"),  # the chain holds; no report of this device exists
        ("case2_root_only.pem", "certificate-malformed"),
        ("case3_missing_intermediate.pem", "gpu-chain"),
        ("case4_missing_leaf.pem", "gpu-chain"),
    ],
)
def test_a_certificate_chain_has_its_documented_verdict(name, verdict):
    report = vectors(FULL, "report.bin").read_bytes()
    pem = vectors("gpu-cert-chains", name).read_text()
    assert code_of(authentic, DeviceEvidence(Kind.GPU, "hopper", report, pem)) == verdict


def test_the_documented_firmware_id_is_read_from_a_hopper_certificate():
    from cryptography import x509

    pem = vectors("gpu-cert-chains", "case1_valid.pem").read_bytes()
    leaf = x509.load_pem_x509_certificates(pem)[0]
    dice = [e.value for e in leaf.extensions if e.oid.dotted_string == "2.23.133.5.4.1"]
    assert firmware_id(dice[0].public_bytes()).hex().startswith("f5c384aebb579217a2c66b17ed0f28e6")


def test_report_and_both_manifests_match_in_every_measurement():
    gpu = authentic(device(FULL))
    manifests = [rim(FULL, name, INSIDE) for name in ("driver_rim.xml", "vbios_rim.xml")]
    assert [len(item.golden) for item in manifests] == [21, 12]
    named = {gpu.describes(item): item for item in manifests}
    claims = judge(gpu, named, {})
    assert claims.unmatched == ()
    assert claims.compared == 32  # 33, but the decoder is off: index 35 does not count
    assert {item.id for item in claims.references} == {
        "NV_GPU_DRIVER_GH100_545.00",
        "NV_GPU_VBIOS_1010_0200_882_96005E0001",
    }


def test_without_ocsp_responses_a_complete_match_stays_undecidable():
    gpu = authentic(device(FULL))
    claims = judge(gpu, {}, revocation_words([gpu], [], Responses.parse(()), now=at(INSIDE)))
    assert claims.revocation is None
    assert code_of(require_complete, (claims,)) == "gpu-endorsements-missing"


def test_a_manifest_of_another_driver_is_not_compared_with_this_one():
    gpu = authentic(device(FULL))
    other = rim(RIM_550, "driver_550.144.03_valid.xml", 1767225600)
    assert gpu.describes(other) is None
    assert code_of(judge, gpu, {"NV_GPU_DRIVER_GH100_545.00": other}, {}) == "rim-mismatch"


@pytest.mark.parametrize(("folder", "arch"), [("gpu-blackwell-575", "blackwell"), (FULL, "hopper")])
def test_a_report_states_what_the_vector_documents(folder, arch):
    expected = json.loads(vectors(folder, "expected.json").read_text())["report"]
    opaque = expected["opaque"]
    gpu = authentic(device(folder, arch))
    report = gpu.report
    assert report.nonce.hex() == expected["spdm_request_nonce"]
    assert len(report.measurements) == expected["measurement_blocks"]
    assert report.driver == opaque["driver_version"]
    assert report.vbios == opaque["vbios_version"]
    assert report.board == (opaque["project"], opaque["project_sku"], opaque["chip_sku"])
    assert report.nvdec0 is (opaque["nvdec0_status"] == "aa")
    assert report.mode is Mode.UNSTATED
    assert f"0x{gpu.chain.leaf.serial}" == expected["leaf_serial"]


def test_four_gpus_of_a_baseboard_are_distinct_and_alike():
    listed, nonce = baseboard()
    devices = tuple(authentic(item, nonce=nonce) for item in listed)
    check_set(devices)
    assert {item.report.mode for item in devices} == {Mode.PROTECTED_PCIE}
    assert all(item.report.protected_pcie for item in devices)
    assert len(devices[0].report.switch_pdis) == 4


@pytest.mark.parametrize("index", range(4))
def test_gpus_of_a_baseboard_are_refused_before_their_certificates_begin(index):
    listed, nonce = baseboard()
    assert code_of(authentic, listed[index], nonce=nonce) == "authentic"
    assert code_of(authentic, listed[index], now=1600000000) == "gpu-certificate-time"


def test_every_folder_of_genuine_gpu_evidence_has_a_verdict_here():
    folders = {path.name for path in vectors().iterdir() if path.name.startswith(("gpu-", "rim-"))}
    here = Path(__file__).read_text() + Path(gpu_vectors.__file__).read_text()
    assert folders
    assert [name for name in sorted(folders) if f'"{name}"' not in here] == []


def test_a_genuine_gpu_that_is_counted_twice_is_refused():
    listed, nonce = baseboard()
    devices = tuple(authentic(item, nonce=nonce) for item in (*listed, listed[0]))
    assert code_of(check_set, devices) == "gpu-duplicate"


def test_gpus_of_two_guests_are_not_taken_for_one_guest():
    devices = tuple(authentic(item) for item in (*baseboard()[0], device(FULL)))
    assert code_of(check_set, devices) == "gpu-mixed"


@pytest.mark.parametrize(("folder", "arch"), [("gpu-blackwell-575", "blackwell"), (FULL, "hopper")])
def test_a_sample_report_is_refused_as_an_answer_to_our_nonce(folder, arch):
    assert code_of(authentic, device(folder, arch), nonce=bytes(range(32))) == "gpu-nonce"


def test_a_token_that_nobody_signed_is_not_a_report():
    token = vectors("gpu-nvattest-claims-h100", "gpu_attestation_h100.json").read_bytes()
    pem = vectors(FULL, "cert_chain.pem").read_text()
    assert code_of(authentic, DeviceEvidence(Kind.GPU, "hopper", token, pem)) == "gpu-token"


def test_the_built_in_roots_are_nvidias_and_have_not_changed():
    assert (
        hashlib.sha256(ROOTS.device_der).hexdigest()
        == "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
    )
    assert (
        hashlib.sha256(ROOTS.rim_der).hexdigest()
        == "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
    )
