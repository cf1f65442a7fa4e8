"""A guest with GPUs from evidence to affirmation, and every way of mixing two guests."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.binding import KbsBinding, KeysetBinding
from attestation.codec import b64
from attestation.errors import NotAuthentic, Refusal, Undecidable
from attestation.explain import of_result
from attestation.gpu.evidence import GpuEvidence
from attestation.report import Report
from attestation.types import Nonce
from tests.appraisal_world import KEYSET, NONCE, NOW, World
from tests.gpu_world import BINDING, GPU_POLICY, GpuWorld, gpu_policy, nvidia, single

OTHER = KeysetBinding(Nonce(bytes(32)), KEYSET)


def code_of(act):
    with pytest.raises(Refusal) as refusal:
        act()
    return type(refusal.value), refusal.value.code


def test_eight_gpus_and_four_switches_are_affirmed():
    result = GpuWorld().result()
    assert result.failed == ()
    assert result.affirmed(NOW)
    assert [check.id for check in result.checks if check.id.startswith("gpu.")] == [
        "gpu.count",
        "gpu.architecture",
        "gpu.mode",
        "gpu.topology",
        "gpu.protected-pcie",
        "gpu.driver",
        "gpu.vbios",
        "gpu.measurements",
        "gpu.ocsp-age",
    ]


def test_one_gpu_that_is_passed_through_alone_is_affirmed():
    assert single().result().affirmed(NOW)


def test_a_result_ends_when_the_oldest_ocsp_response_grows_too_old():
    issued = NOW - timedelta(hours=1)
    ends = issued + timedelta(days=GPU_POLICY["ocsp_max_age_days"])
    assert GpuWorld().result().expires_at == ends


def test_a_key_broker_verifies_gpus_inside_the_runtime_data():
    bare = KbsBinding(b64(NONCE), {"kty": "EC", "crv": "P-256"}, "")
    world = GpuWorld(binding=bare)
    binding = replace(bare, additional_evidence=world.gpus().to_bytes().decode())
    sent = World().guest().evidence(binding)
    assert len(world.claims(sent).gpu) == 12


def test_gpu_evidence_beside_runtime_data_is_bound_by_nothing():
    bare = KbsBinding(b64(NONCE), {"kty": "EC", "crv": "P-256"}, "")
    world = GpuWorld(binding=bare)
    assert code_of(lambda: world.claims(world.sent())) == (NotAuthentic, "binding-mismatch")


def test_gpu_evidence_of_another_guest_does_not_fit_this_quote():
    world = GpuWorld()
    theirs = GpuWorld(binding=OTHER).gpus()
    sent = replace(world.sent(), gpu=theirs.to_bytes())
    assert code_of(lambda: world.claims(sent)) == (NotAuthentic, "binding-mismatch")


def test_a_guest_that_quotes_gpus_of_another_guest_is_refused():
    theirs = GpuWorld(binding=OTHER).gpus()
    liar = GpuWorld(evidence=theirs)
    assert code_of(liar.claims) == (NotAuthentic, "gpu-nonce")


def test_one_borrowed_gpu_among_own_ones_is_refused():
    world = GpuWorld()
    borrowed = GpuWorld(binding=OTHER).gpus().devices[7]
    own = world.gpus().devices
    mixed = GpuEvidence((*own[:7], borrowed, *own[8:]))
    assert code_of(GpuWorld(evidence=mixed).claims) == (NotAuthentic, "gpu-nonce")


def test_gpu_evidence_cannot_be_taken_away_from_a_quote_that_covers_it():
    world = GpuWorld()
    stripped = replace(world.sent(), gpu=b"")
    assert code_of(lambda: world.claims(stripped)) == (NotAuthentic, "binding-mismatch")


def test_a_guest_without_gpus_does_not_satisfy_a_policy_that_names_some():
    honest = World()
    result = replace(honest, policy=gpu_policy()).result()
    assert result.code == "gpu.count"


def test_a_guest_with_gpus_is_not_accepted_by_a_policy_for_none():
    assert [check.id for check in GpuWorld(policy="none").result().failed] == ["gpu.count"]


def test_a_policy_whose_root_names_no_nvidia_cannot_decide():
    world = GpuWorld()
    roots = replace(gpu_policy().roots, gpu=None)
    from attestation.authenticate import authenticate

    def verify():
        endorsed = replace(World().guest().endorsements(NOW), gpu=world.store().to_bytes())
        return authenticate(
            world.sent(), endorsed, roots=roots, expected_nonce=BINDING.nonce, now=NOW
        )

    assert code_of(verify) == (Undecidable, "gpu-unsupported")


def test_nvidias_genuine_roots_do_not_vouch_for_a_simulated_gpu():
    from attestation.authenticate import authenticate
    from attestation.gpu.verify import nvidia_roots

    world = GpuWorld()
    endorsed = replace(World().guest().endorsements(NOW), gpu=world.store().to_bytes())
    roots = replace(gpu_policy().roots, gpu=nvidia_roots())
    with pytest.raises(NotAuthentic, match="gpu-chain"):
        authenticate(world.sent(), endorsed, roots=roots, expected_nonce=BINDING.nonce, now=NOW)


def test_a_report_carries_gpu_evidence_and_endorsements_and_verifies_later():
    world = GpuWorld()
    endorsed = replace(World().guest().endorsements(NOW), gpu=world.store().to_bytes())
    report = Report.parse(Report.build(world.sent(), endorsed).to_bytes())
    assert report.evidence == world.sent()
    assert report.endorsements == endorsed


def test_an_affirmation_names_the_gpus_in_words_and_in_json():
    answer = of_result(GpuWorld().result(), now=NOW)
    assert "8 hopper GPUs, 4 switches, mode ppcie, driver 570.124.06" in answer.to_text()
    listed = answer.to_json()["claims"]["gpu"]
    assert len(listed) == 12
    assert listed[0]["unmatched"] == []
    assert listed[0]["references"][0]["id"] == "NV_GPU_DRIVER_GH100_570.124.06"


def test_the_claims_of_a_guest_end_with_the_first_endorsement():
    claims = GpuWorld().claims()
    assert claims.expires_at == nvidia().ocsp_window(NOW).ends
