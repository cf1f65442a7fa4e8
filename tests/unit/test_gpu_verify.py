"""Lies of devices, hosts and mirrors, signed for real by a mock NVIDIA: each has its refusal."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.errors import NotAuthentic, Undecidable
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.report import Field, Kind
from attestation.simulator.nvidia import GPU, SWITCHES, MockNvidia, golden_of
from attestation.simulator.nvidia_pki import Window, certify, derived_key
from tests.gpu_single import HOUR, NONCE, chain, one, refused, store, verify
from tests.gpu_world import NOW, SINGLE, nvidia

DRIVER, VBIOS = "NV_GPU_DRIVER_GH100_570.124.06", "NV_GPU_VBIOS_G520_0200_885_9600C10004"


def with_rim(name, xml):
    honest = store()
    return GpuEndorsements({**honest.rims, name: xml}, honest.ocsp)


BROM, PROVISIONER = chain()[1], chain()[2]


def test_an_honest_device_matches_in_all_that_nvidia_names():
    (claims,) = verify()
    assert (claims.unmatched, claims.missing, claims.compared) == ((), (), 39)
    assert claims.fwid == SINGLE.fwid
    assert claims.revocation == NOW - HOUR


# -- A19: a nonce of somebody else


def test_a_report_over_another_nonce_is_refused():
    assert refused(nonce=bytes(32)) == (NotAuthentic, "gpu-nonce")


# -- certificates, roles and signatures


def test_a_report_signed_by_another_device_is_refused():
    other = chain("gpu 1")[0]
    assert refused(one(signer=other)) == (NotAuthentic, "gpu-signature")


def test_a_report_signed_by_the_boot_rom_key_is_refused():
    assert refused(one(signer=BROM)) == (NotAuthentic, "gpu-signature")


def test_devices_of_another_nvidia_are_refused():
    mallory = MockNvidia.generate(NOW)
    evidence = GpuEvidence((mallory.device(SINGLE, unit="gpu 0", nonce=NONCE),))
    assert refused(evidence) == (NotAuthentic, "gpu-chain")


def device_with(pems):
    honest = one().devices[0]
    return GpuEvidence((replace(honest, certificates="".join(pems)),))


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ((0, 2, 1, 3, 4), "gpu-chain"),
        ((1, 0, 2, 3, 4), "gpu-chain"),
        ((0, 1, 3, 2, 4), "gpu-chain"),
        ((0, 1, 2, 3, 3), "gpu-chain"),
        ((0, 1, 2, 3), "gpu-chain"),
        ((4, 4, 4, 4, 4), "gpu-chain"),
    ],
)
def test_certificates_in_another_order_do_not_make_a_chain(order, code):
    pems = [party.pem for party in chain()]
    assert refused(device_with([pems[i] for i in order]), store()) == (NotAuthentic, code)


def forged_leaf(**options):
    key = derived_key(nvidia().seed, "forged")
    window = Window(NOW - HOUR, NOW + HOUR)
    options = {"name": "GH100 A01 GSP FMC LF", "issuer": BROM, "fwid": SINGLE.fwid} | options
    options.setdefault("authority", False)
    name, window = options.pop("name"), options.pop("window", window)
    leaf = certify(name, key, window=window, **options)
    signed = one(signer=leaf).devices[0]
    pems = [leaf.pem, *[party.pem for party in chain()[1:]]]
    return GpuEvidence((replace(signed, certificates="".join(pems)),))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"issuer": chain()[0]}, (NotAuthentic, "gpu-chain")),
        ({"authority": True}, (NotAuthentic, "gpu-chain")),
        ({"name": "GH100 A01 GSP BROM"}, (NotAuthentic, "gpu-role")),
        ({"name": "LS_10 A01 FSP FMC LF"}, (NotAuthentic, "gpu-role")),
        ({"name": "GB100 A01 GSP FMC LF"}, (NotAuthentic, "gpu-role")),
        ({"fwid": None}, (NotAuthentic, "gpu-role")),
        ({"fwid": bytes(48)}, (NotAuthentic, "gpu-fwid")),
        ({"window": Window(NOW + HOUR, NOW + 2 * HOUR)}, (Undecidable, "gpu-certificate-time")),
        ({"window": Window(NOW - 2 * HOUR, NOW - HOUR)}, (Undecidable, "gpu-certificate-time")),
    ],
)
def test_a_leaf_outside_its_role_is_refused(options, expected):
    assert refused(forged_leaf(**options), store()) == expected


def test_the_leaf_that_others_forge_from_would_be_accepted():
    (claims,) = verify(forged_leaf(), store())
    assert claims.missing == ()


@pytest.mark.parametrize(("kind", "arch"), [(Kind.GPU, "blackwell"), (Kind.SWITCH, "ls10")])
def test_a_device_cannot_pass_for_one_of_another_kind(kind, arch):
    honest = one().devices[0]
    opaque = {Field.PDI.value: bytes(7) + b"\1", Field.VBIOS.value: b"96.00.C1.00.04"}
    report = nvidia().device(replace(SINGLE, opaque=opaque), unit="gpu 0", nonce=NONCE).report
    liar = replace(honest, kind=kind, arch=arch)
    if kind is Kind.SWITCH:
        liar = replace(liar, report=report)
    assert refused(GpuEvidence((liar,)), store()) == (NotAuthentic, "gpu-role")


def test_a_report_that_names_other_firmware_than_its_certificate_is_refused():
    liar = replace(SINGLE, opaque={Field.FWID.value: bytes(48)})
    assert refused(one(liar)) == (NotAuthentic, "gpu-fwid")


def test_firmware_that_leaves_its_id_to_the_certificate_is_accepted():
    (claims,) = verify(one(replace(SINGLE, opaque={Field.FWID.value: None})), store())
    assert claims.fwid == SINGLE.fwid


# -- A20: devices counted more than once, modes mixed


def test_a_device_that_is_counted_twice_is_refused():
    device = one().devices[0]
    assert refused(GpuEvidence((device, device))) == (NotAuthentic, "gpu-duplicate")


def test_a_device_with_a_second_leaf_certificate_is_still_one_device():
    twice = GpuEvidence((*one().devices, *forged_leaf().devices))
    assert refused(twice, store()) == (NotAuthentic, "gpu-duplicate")


def test_one_switch_sent_four_times_is_refused():
    switch = nvidia().device(SWITCHES[0], unit="switch 0", nonce=NONCE)
    evidence = GpuEvidence((*nvidia().evidence(NONCE, switches=0).devices, *[switch] * 4))
    assert refused(evidence, store()) == (NotAuthentic, "gpu-duplicate")


def test_two_switches_that_claim_one_identity_are_refused():
    liar = nvidia().device(SWITCHES[0], unit="switch 1", nonce=NONCE)
    honest = nvidia().device(SWITCHES[0], unit="switch 0", nonce=NONCE)
    assert refused(GpuEvidence((honest, liar)), store()) == (NotAuthentic, "gpu-duplicate")


@pytest.mark.parametrize(
    "other",
    [
        replace(SINGLE, feature=1),
        replace(SINGLE, feature=2),
        replace(SINGLE, opaque={Field.FEATURE.value: None}),
        replace(SINGLE, protected_pcie=0xAA),
        replace(SINGLE, driver="570.124.07"),
        replace(SINGLE, chip="GB100"),
    ],
)
def test_gpus_in_different_states_are_not_one_guest(other):
    devices = [
        nvidia().device(state, unit=f"gpu {i}", nonce=NONCE)
        for i, state in enumerate((SINGLE, other))
    ]
    assert refused(GpuEvidence(tuple(devices)), store()) == (NotAuthentic, "gpu-mixed")


# -- A21: manifests


def test_a_measurement_that_no_manifest_knows_is_a_finding_of_that_index():
    odd = (*SINGLE.measurements[:9], b"\x01" * 48, *SINGLE.measurements[10:])
    (claims,) = verify(one(replace(SINGLE, measurements=odd)), store())
    assert claims.unmatched == (9,)


def test_golden_values_beyond_the_report_are_findings():
    short = replace(SINGLE, measurements=SINGLE.measurements[:38])
    (claims,) = verify(one(short), store())
    assert claims.unmatched == (38, 39)


@pytest.mark.parametrize(("nvdec0", "unmatched"), [(0x55, ()), (0xAA, (35,))])
def test_measurement_35_counts_where_the_decoder_is_enabled(nvdec0, unmatched):
    odd = (*SINGLE.measurements[:35], b"\x01" * 48, *SINGLE.measurements[36:])
    (claims,) = verify(one(replace(SINGLE, measurements=odd, nvdec0=nvdec0)), store())
    assert claims.unmatched == unmatched


def test_a_report_that_hides_whether_the_decoder_is_enabled_is_held_to_measurement_35():
    odd = (*SINGLE.measurements[:35], b"\x01" * 48, *SINGLE.measurements[36:])
    hidden = replace(SINGLE, measurements=odd, opaque={Field.NVDEC0.value: None})
    (claims,) = verify(one(hidden), store())
    assert claims.unmatched == (35,)


def test_any_alternative_of_a_golden_value_is_accepted():
    zero = (*SINGLE.measurements[:9], bytes(48), *SINGLE.measurements[10:])
    (claims,) = verify(one(replace(SINGLE, measurements=zero)), store())
    assert claims.unmatched == ()


@pytest.mark.parametrize("name", [DRIVER, VBIOS])
def test_a_missing_manifest_decides_nothing(name):
    honest = store()
    rims = {key: xml for key, xml in honest.rims.items() if key != name}
    expected = (Undecidable, "gpu-endorsements-missing")
    assert refused(store=GpuEndorsements(rims, honest.ocsp)) == expected


@pytest.mark.parametrize(
    ("product", "version"),
    [("GH100", "570.124.07"), ("GB100", "570.124.06"), ("LS10", "570.124.06"), ("GH100", "1")],
)
def test_a_manifest_of_something_else_is_refused_under_this_name(product, version):
    xml = nvidia().manifest(golden_of(SINGLE, range(7, 40)), product=product, version=version)
    assert refused(store=with_rim(DRIVER, xml)) == (NotAuthentic, "rim-mismatch")


def test_a_manifest_of_the_vbios_does_not_serve_as_one_of_the_driver():
    vbios = store().rims[VBIOS]
    assert refused(store=with_rim(DRIVER, vbios)) == (NotAuthentic, "rim-mismatch")


def test_two_manifests_that_decide_one_measurement_are_refused():
    xml = nvidia().manifest(golden_of(SINGLE, range(6, 40)), product="GH100", version=SINGLE.driver)
    assert refused(store=with_rim(DRIVER, xml)) == (NotAuthentic, "rim-mismatch")


def test_a_manifest_of_an_expired_signer_is_undecidable():
    later = NOW + timedelta(days=800)
    fresh = nvidia().endorsements(one(), state=SINGLE, now=later)
    assert refused(store=fresh, now=later) == (Undecidable, "rim-expired")


def test_a_manifest_that_a_device_key_signed_is_refused():
    parties = (*chain()[:3], nvidia().device_root)
    xml = nvidia().manifest(
        golden_of(SINGLE, range(7, 40)), product="GH100", version=SINGLE.driver, chain=parties
    )
    assert refused(store=with_rim(DRIVER, xml)) == (NotAuthentic, "rim-chain")


def test_a_manifest_that_an_authority_signed_directly_is_refused():
    signer, third, second, root = nvidia().rim_chain
    xml = nvidia().manifest(
        golden_of(SINGLE, range(7, 40)),
        product="GH100",
        version=SINGLE.driver,
        chain=(third, third, second, root),
    )
    assert signer.der != third.der
    assert refused(store=with_rim(DRIVER, xml)) == (NotAuthentic, "rim-chain")


def test_a_blackwell_gpu_is_looked_up_under_its_own_names():
    state = replace(SINGLE, chip="GB100")
    evidence = one(state)
    (claims,) = verify(evidence, nvidia().endorsements(evidence, state=state))
    assert claims.references[0].id == "NV_GPU_CC_DRIVER_GB100_570.124.06"


def test_a_whole_baseboard_verifies_with_one_check_of_each_shared_certificate():
    evidence = nvidia().evidence(NONCE)
    claims = verify(evidence, nvidia().endorsements(evidence))
    assert [item.kind for item in claims] == [Kind.GPU] * 8 + [Kind.SWITCH] * 4
    assert {item.compared for item in claims} == {39, 31}
    assert GPU.feature == 2
