from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources

import pytest

from attestation.authenticate import Roots, authenticate
from attestation.binding import KbsBinding, KeysetBinding
from attestation.codec import b64
from attestation.errors import Malformed, NotAuthentic, Refusal, Undecidable
from attestation.evidence import Evidence
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.simulator.guest import SoftwareGuest
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Endorsements, Nonce
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
NONCE = Nonce(bytes(range(32)))
CONFIG = RuntimeEvent("tacit.inference/v1", "config", "sha256:" + "ab" * 32)
MODEL = RuntimeEvent("tacit.inference/v1", "model", "qwen3=sha256:" + "cd" * 32)
KEYSET = Keyset(
    version=1,
    tls_spki="sha256:" + "01" * 32,
    config="sha256:" + "ab" * 32,
    models=(ServedModel(name="qwen3", manifest="sha256:" + "cd" * 32, weights="sealed"),),
    posture=Posture(
        retention="none",
        training="none",
        operator="an operator",
        jurisdiction="nowhere",
        engine="vllm 0",
        audit=("status",),
        filters=(),
        telemetry=(),
    ),
)
KEYSET_BINDING = KeysetBinding(NONCE, KEYSET)
KBS_BINDING = KbsBinding(b64(NONCE), {"kty": "EC", "crv": "P-256"}, "")


def guest(**options):
    booted = SoftwareGuest(INTEL, **options)
    booted.extend(CONFIG)
    booted.extend(MODEL)
    return booted


def claims_of(evidence, *, nonce=NONCE, endorsements=None):
    return authenticate(
        evidence,
        endorsements or guest().endorsements(),
        roots=Roots(INTEL.root_der, simulated=True),
        expected_nonce=nonce,
        now=NOW,
    )


def refused(kind, code, evidence, **options):
    with pytest.raises(Refusal) as refusal:
        claims_of(evidence, **options)
    assert (type(refusal.value), refusal.value.code) == (kind, code)


def test_genuine_evidence_is_authenticated_with_its_runtime_events():
    claims = claims_of(guest().evidence(KEYSET_BINDING))
    assert claims.runtime == (CONFIG, MODEL)
    assert claims.events.present
    assert claims.binding is KEYSET_BINDING
    assert claims.expires_at == claims.tdx.collateral.expires > NOW


def test_evidence_under_a_simulated_root_says_so():
    assert claims_of(guest().evidence(KEYSET_BINDING)).simulated


def test_simulated_evidence_is_forged_to_whoever_trusts_intel():
    genuine = resources.files("attestation.tdx").joinpath("intel_root.der").read_bytes()
    with pytest.raises(NotAuthentic) as refusal:
        authenticate(
            guest().evidence(KEYSET_BINDING),
            guest().endorsements(),
            roots=Roots(genuine, simulated=False),
            expected_nonce=NONCE,
            now=NOW,
        )
    assert refusal.value.code == "tdx-chain"


def test_a_time_before_any_collateral_decides_nothing():
    with pytest.raises(Undecidable) as refusal:
        authenticate(
            guest().evidence(KEYSET_BINDING),
            guest().endorsements(),
            roots=Roots(INTEL.root_der, simulated=True),
            expected_nonce=NONCE,
            now=datetime(1, 1, 1, tzinfo=UTC),
        )
    assert refusal.value.code == "collateral-future"


def test_kbs_evidence_is_authenticated_with_its_text_nonce():
    claims = claims_of(guest().evidence(KBS_BINDING), nonce=b64(NONCE))
    assert claims.runtime == (CONFIG, MODEL)


@pytest.mark.parametrize("nonce", [bytes(32), NONCE[:31], b"", b64(NONCE)])
def test_evidence_that_answers_another_nonce_is_refused(nonce):
    refused(NotAuthentic, "nonce-mismatch", guest().evidence(KEYSET_BINDING), nonce=nonce)


@pytest.mark.parametrize("nonce", ["", b64(bytes(32)), NONCE])
def test_kbs_evidence_that_answers_another_nonce_is_refused(nonce):
    refused(NotAuthentic, "nonce-mismatch", guest().evidence(KBS_BINDING), nonce=nonce)


def test_a_keyset_that_the_quote_does_not_bind_is_refused():
    other = KEYSET.model_copy(update={"tls_spki": "sha256:" + "ff" * 32})
    swapped = replace(guest().evidence(KEYSET_BINDING), binding=KeysetBinding(NONCE, other))
    refused(NotAuthentic, "binding-mismatch", swapped)


def test_a_nonce_that_the_quote_does_not_bind_is_refused():
    fresh = Nonce(bytes(32))
    swapped = replace(guest().evidence(KEYSET_BINDING), binding=KeysetBinding(fresh, KEYSET))
    refused(NotAuthentic, "binding-mismatch", swapped, nonce=fresh)


def test_a_release_key_that_the_quote_does_not_bind_is_refused():
    other = replace(KBS_BINDING, tee_pubkey={"kty": "EC", "crv": "P-384"})
    swapped = replace(guest().evidence(KBS_BINDING), binding=other)
    refused(NotAuthentic, "binding-mismatch", swapped, nonce=b64(NONCE))


def test_a_key_broker_quote_does_not_pass_as_one_for_a_client():
    swapped = replace(guest().evidence(KBS_BINDING), binding=KEYSET_BINDING)
    refused(NotAuthentic, "binding-mismatch", swapped)


@pytest.mark.parametrize("runtime", [{"kü": "EC"}, {"kty": "\ud800"}])
def test_runtime_data_without_a_canonical_form_is_refused(runtime):
    strange = replace(KBS_BINDING, tee_pubkey=runtime)
    refused(
        Malformed,
        "field-invalid",
        replace(guest().evidence(KBS_BINDING), binding=strange),
        nonce=b64(NONCE),
    )


def test_a_log_that_leaves_out_an_event_is_refused():
    honest = guest()
    short = SoftwareGuest(INTEL)
    short.extend(CONFIG)
    evidence = replace(honest.evidence(KBS_BINDING), event_log=short.event_log())
    refused(NotAuthentic, "eventlog-mismatch", evidence, nonce=b64(NONCE))


def test_a_register_extended_behind_the_back_of_the_log_is_refused():
    liar = guest()
    liar.extend_register(3, bytes(48))
    refused(NotAuthentic, "eventlog-mismatch", liar.evidence(KEYSET_BINDING))


def test_a_firmware_register_that_the_log_does_not_explain_is_refused():
    liar = guest(measurements={"rtmr1": b"\x01" * 48})
    refused(NotAuthentic, "eventlog-mismatch", liar.evidence(KEYSET_BINDING))


def test_evidence_without_a_log_has_no_runtime_events():
    unlogged = replace(guest().evidence(KBS_BINDING), event_log=b"")
    claims = claims_of(unlogged, nonce=b64(NONCE))
    assert claims.runtime == ()
    assert not claims.events.present


def test_a_log_cannot_be_taken_away_from_evidence_that_binds_it():
    unlogged = replace(guest().evidence(KEYSET_BINDING), event_log=b"")
    refused(NotAuthentic, "binding-mismatch", unlogged)


def test_gpu_evidence_is_refused_because_nothing_can_check_it():
    refused(Undecidable, "gpu-unsupported", guest().evidence(KEYSET_BINDING, gpu=b"{}"))


def test_gpu_evidence_inside_kbs_runtime_data_is_refused_too():
    binding = replace(KBS_BINDING, additional_evidence='{"nvidia": "…"}')
    refused(Undecidable, "gpu-unsupported", guest().evidence(binding), nonce=b64(NONCE))


def test_evidence_larger_than_any_guest_sends_is_refused_unread():
    genuine = guest().evidence(KEYSET_BINDING)
    big = bytes(1024 * 1024 + 1)
    refused(Malformed, "too-large", replace(genuine, event_log=big))
    refused(Malformed, "too-large", replace(genuine, gpu=big))
    refused(Malformed, "too-large", replace(genuine, quote=genuine.quote + bytes(128 * 1024)))
    refused(Malformed, "too-large", genuine, endorsements=Endorsements(b" " * len(big)))


def test_nothing_after_a_forged_quote_is_looked_at():
    genuine = guest().evidence(KEYSET_BINDING)
    forged = Evidence(genuine.quote[:700] + b"\0" + genuine.quote[701:], b"junk", b"", KBS_BINDING)
    refused(NotAuthentic, "tdx-signature", forged, nonce=bytes(32))
