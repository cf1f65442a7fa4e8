"""A22 and A23: what NVIDIA's responders say of a certificate, and who may speak for them."""

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from attestation.errors import NotAuthentic, Undecidable
from attestation.gpu.evidence import GpuEndorsements
from attestation.simulator.nvidia_pki import Window, certify, derived_key
from tests.gpu_single import HOUR, chain, refused, store, verify, word
from tests.gpu_world import NOW, nvidia

BROM, PROVISIONER = chain()[1], chain()[2]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (None, "gpu-revoked"),
        (x509.ReasonFlags.key_compromise, "gpu-revoked"),
        (x509.ReasonFlags.certificate_hold, "gpu-hold"),
    ],
)
@pytest.mark.parametrize(
    ("subject", "issuer"),
    [
        (BROM, PROVISIONER),
        (PROVISIONER, nvidia().identity),
        (nvidia().identity, nvidia().device_root),
        nvidia().rim_chain[:2],
        nvidia().rim_chain[1:3],
        nvidia().rim_chain[2:],
    ],
)
def test_a_revoked_or_held_certificate_is_refused(subject, issuer, reason, code):
    status = ocsp.OCSPCertStatus.REVOKED
    told = store(instead=word(subject, issuer, status=status, reason=reason))
    assert refused(store=told) == (NotAuthentic, code)


def test_a_certificate_the_responder_does_not_know_is_undecidable():
    told = store(instead=word(BROM, PROVISIONER, status=ocsp.OCSPCertStatus.UNKNOWN))
    assert refused(store=told) == (Undecidable, "ocsp-unknown")


@pytest.mark.parametrize(
    ("window", "code"),
    [
        (Window(NOW - 2 * HOUR, NOW - HOUR), "ocsp-expired"),
        (Window(NOW - HOUR, NOW), "ocsp-expired"),
        (Window(NOW + HOUR, NOW + 2 * HOUR), "ocsp-future"),
    ],
)
def test_a_response_outside_its_window_is_undecidable(window, code):
    told = store(instead=word(BROM, PROVISIONER, window=window))
    assert refused(store=told) == (Undecidable, code)


def test_a_certificate_without_a_response_is_undecidable():
    told = store(instead={BROM.certificate.serial_number: None})
    assert refused(store=told) == (Undecidable, "gpu-endorsements-missing")


def test_a_good_response_does_not_outweigh_one_that_says_revoked():
    honest = store()
    revoked = word(BROM, PROVISIONER, status=ocsp.OCSPCertStatus.REVOKED)
    told = GpuEndorsements(honest.rims, (*honest.ocsp, *revoked.values()))
    assert refused(store=told) == (NotAuthentic, "gpu-revoked")


def test_an_old_response_beside_a_current_one_does_no_harm():
    honest = store()
    old = word(BROM, PROVISIONER, window=Window(NOW - 9 * HOUR, NOW - 8 * HOUR))
    assert verify(store=GpuEndorsements(honest.rims, (*old.values(), *honest.ocsp)))


def delegate(**options):
    key = derived_key(nvidia().seed, "responder")
    options = {"issuer": PROVISIONER, "ocsp_signing": True, "authority": False} | options
    window = options.pop("window", Window(NOW - HOUR, NOW + HOUR))
    return certify("Simulated responder", key, window=window, **options)


def test_a_delegate_of_the_issuer_may_respond():
    assert verify(store=store(instead=word(BROM, PROVISIONER, responder=delegate())))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ocsp_signing": False}, (NotAuthentic, "ocsp-signature")),
        ({"authority": True}, (NotAuthentic, "ocsp-signature")),
        ({"issuer": nvidia().identity}, (NotAuthentic, "ocsp-signature")),
        ({"issuer": BROM}, (NotAuthentic, "ocsp-signature")),
        ({"window": Window(NOW - 2 * HOUR, NOW - HOUR)}, (Undecidable, "ocsp-expired")),
    ],
)
def test_nobody_else_may_respond(options, expected):
    told = store(instead=word(BROM, PROVISIONER, responder=delegate(**options)))
    assert refused(store=told) == expected


def test_a_device_cannot_vouch_for_itself():
    told = store(instead=word(BROM, PROVISIONER, responder=chain()[0]))
    assert refused(store=told) == (NotAuthentic, "ocsp-signature")


def test_a_response_about_another_certificate_is_no_word_on_this_one():
    other = chain("gpu 1")[1]
    told = store(instead={BROM.certificate.serial_number: None} | word(other, PROVISIONER))
    assert refused(store=told) == (Undecidable, "gpu-endorsements-missing")


def test_a_response_of_another_issuer_with_the_same_serial_is_no_word():
    told = store(instead=word(BROM, nvidia().identity))
    assert refused(store=told) == (Undecidable, "gpu-endorsements-missing")
