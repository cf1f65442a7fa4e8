"""What is kept of NVIDIA's certificates and manifests, and what is asked again with each report."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.errors import Refusal
from attestation.gpu.chain import _REMEMBERED, Proven
from attestation.gpu.evidence import GpuEndorsements, bound_nonce
from attestation.gpu.verify import GpuRoots, verify_gpu
from tests.appraisal_world import NOW
from tests.gpu_world import BINDING, baseboard, nvidia, stored

NONCE = bound_nonce(BINDING)
ROOTS = nvidia().roots


def verified(roots, *, evidence=None, endorsements=None, now=NOW, nonce=NONCE):
    return verify_gpu(
        evidence or baseboard(NONCE),
        endorsements or stored(NONCE),
        nonce=nonce,
        roots=roots,
        now=now,
    )


@pytest.fixture
def warm():
    roots = GpuRoots(ROOTS.device_der, ROOTS.rim_der)
    verified(roots)
    return roots


def test_a_second_look_says_what_the_first_said(warm):
    assert verified(warm) == verified(GpuRoots(ROOTS.device_der, ROOTS.rim_der))


@pytest.mark.parametrize(
    "moved", [timedelta(days=-400), timedelta(days=60), timedelta(days=4000), timedelta(days=20000)]
)
def test_known_certificates_and_manifests_are_judged_by_the_time_of_each_report(warm, moved):
    with pytest.raises(Refusal) as first:
        verified(GpuRoots(ROOTS.device_der, ROOTS.rim_der), now=NOW + moved)
    with pytest.raises(Refusal) as second:
        verified(warm, now=NOW + moved)
    assert second.value.code == first.value.code


def test_a_report_that_its_device_did_not_sign_is_refused(warm):
    devices = baseboard(NONCE).devices
    report = bytearray(devices[0].report)
    report[-1] ^= 1
    forged = replace(
        baseboard(NONCE), devices=(replace(devices[0], report=bytes(report)), *devices[1:])
    )
    with pytest.raises(Refusal) as refused:
        verified(warm, evidence=forged)
    assert refused.value.code == "gpu-signature"


def test_a_known_device_that_answers_another_nonce_is_refused(warm):
    with pytest.raises(Refusal) as refused:
        verified(warm, nonce=bytes(32))
    assert refused.value.code == "gpu-nonce"


def test_a_known_manifest_is_another_when_a_byte_is(warm):
    rims = stored(NONCE).rims
    name = min(rims)
    altered = rims[name].replace(b'size="48"', b'size="49"', 1)
    with pytest.raises(Refusal) as refused:
        verified(warm, endorsements=GpuEndorsements(rims | {name: altered}, stored(NONCE).ocsp))
    assert refused.value.code == "rim-signature"


def test_a_known_device_without_a_word_on_revocation_is_undecidable(warm):
    with pytest.raises(Refusal) as refused:
        verified(warm, endorsements=GpuEndorsements(stored(NONCE).rims, stored(NONCE).ocsp[1:]))
    assert refused.value.code == "gpu-endorsements-missing"


def test_known_certificates_prove_nothing_under_another_root(warm):
    other = GpuRoots(ROOTS.rim_der, ROOTS.rim_der)
    other.proven.links.update(warm.proven.links)
    other.proven.issued.update(warm.proven.issued)
    with pytest.raises(Refusal) as refused:
        verified(other)
    assert refused.value.code == "gpu-chain"


def test_certificates_of_strangers_do_not_add_up():
    proven = Proven()
    for number in range(_REMEMBERED):
        proven.links[number.to_bytes(2, "big")] = proven.link(ROOTS.device_der, what="root")
    proven.link(ROOTS.rim_der, what="root")
    assert set(proven.links) == {ROOTS.rim_der}
