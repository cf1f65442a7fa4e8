"""What is kept of bytes seen before, and that nothing is believed because it is kept."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.authenticate import Roots, authenticate
from attestation.binding import KeysetBinding
from attestation.codec import canonical_json
from attestation.errors import NotAuthentic, Refusal
from attestation.evidence import Evidence
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.recent import Recent
from attestation.simulator.guest import LAUNCH, SoftwareGuest
from attestation.simulator.intel import Statements
from attestation.simulator.statements import PlatformLevel, TcbInfo
from attestation.tdx.claims import TcbStatus
from attestation.tdx.eventlog import RuntimeEvent
from attestation.tdx.quote import QuoteVerifier, verify_quote
from attestation.tdx.stated import Root
from attestation.types import Endorsements, nonce
from tests.appraisal_world import KEYSET
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
COLLATERAL = INTEL.collateral(NOW)
QUOTE = INTEL.quote(LAUNCH)


def warm() -> QuoteVerifier:
    verifier = QuoteVerifier(Root.parse(INTEL.root_der))
    verifier.verify(QUOTE, COLLATERAL, now=NOW)
    return verifier


def test_only_the_last_few_are_kept_and_only_exact_ones_are_found():
    recent = Recent[bytes, int](2)
    for value in range(3):
        recent.keep(bytes([value]), value)
    assert [recent.find(bytes([value])) for value in range(3)] == [None, 1, 2]
    assert recent.find(b"\x01\x00") is None


def test_a_second_look_says_what_the_first_said():
    verifier = warm()
    again = verifier.verify(QUOTE, COLLATERAL, now=NOW)
    assert again == verify_quote(QUOTE, COLLATERAL, root_der=INTEL.root_der, now=NOW)
    other = INTEL.quote(replace(LAUNCH, mrtd=b"\x01" * 48))
    assert verifier.verify(other, COLLATERAL, now=NOW).report.mrtd == b"\x01" * 48


@pytest.mark.parametrize(
    "moved", [timedelta(days=-3), timedelta(days=31), timedelta(days=400), timedelta(days=9000)]
)
def test_known_collateral_is_judged_by_the_time_of_each_verification(moved):
    with pytest.raises(Refusal) as first:
        verify_quote(QUOTE, COLLATERAL, root_der=INTEL.root_der, now=NOW + moved)
    with pytest.raises(Refusal) as second:
        warm().verify(QUOTE, COLLATERAL, now=NOW + moved)
    assert second.value.code == first.value.code


def test_a_quote_that_nobody_signed_is_refused_under_known_collateral():
    verifier = warm()
    at = QUOTE.index(LAUNCH.mrtd)
    with pytest.raises(Refusal) as refused:
        verifier.verify(QUOTE[:at] + b"\x01" * 48 + QUOTE[at + 48 :], COLLATERAL, now=NOW)
    assert refused.value.code == "tdx-signature"


def quote_for(data: bytes) -> bytes:
    return INTEL.quote(replace(LAUNCH, report_data=data))


def test_no_bit_of_what_changes_in_a_known_guests_quote_may_be_another():
    """The rest is compared; these two fields are all that the library's answer hangs on."""
    verifier = warm()
    quote = quote_for(b"\x05" * 64)
    verifier.verify(quote, COLLATERAL, now=NOW)
    start = 48 + 520
    for at in (*range(start, start + 64), *range(start + 68, start + 132)):
        for bit in range(8):
            flipped = quote[:at] + bytes([quote[at] ^ 1 << bit]) + quote[at + 1 :]
            with pytest.raises(NotAuthentic, match="tdx-signature"):
                verifier.verify(flipped, COLLATERAL, now=NOW)


def test_what_a_known_guest_is_told_to_be_hangs_on_no_nonce_and_no_time():
    quotes = [quote_for(bytes([value]) * 64) for value in range(3)]
    told = [
        verify_quote(quote, COLLATERAL, root_der=INTEL.root_der, now=NOW + moved)
        for quote in quotes
        for moved in (timedelta(0), timedelta(days=1), timedelta(days=20))
    ]
    assert len({(one.platform, one.tcb, one.collateral) for one in told}) == 1
    assert len({one.report.report_data for one in told}) == 3


def test_what_was_refused_is_not_kept():
    verifier = QuoteVerifier(Root.parse(INTEL.root_der))
    forged = COLLATERAL.replace(b"OutOfDate", b"UpToDate", 1)
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            verifier.verify(QUOTE, forged, now=NOW)
        assert refused.value.code == "collateral-signature"


def test_a_machine_is_placed_anew_by_other_collateral():
    verifier = warm()
    levels = (PlatformLevel(status="OutOfDate", date="2025-08-13T00:00:00Z"),)
    worse = INTEL.collateral(NOW, state=Statements(tcb_info=TcbInfo(levels=levels)))
    assert verifier.verify(QUOTE, worse, now=NOW).tcb.status is TcbStatus.OUT_OF_DATE
    assert verifier.verify(QUOTE, COLLATERAL, now=NOW).tcb.status is TcbStatus.UP_TO_DATE


def test_a_known_log_is_compared_with_the_registers_of_each_quote():
    roots, challenge = Roots(INTEL.root_der, simulated=True), nonce(bytes(32))
    booted, other = SoftwareGuest(INTEL), SoftwareGuest(INTEL)
    booted.extend(RuntimeEvent("tacit.inference/v1", "config", KEYSET.config))
    binding = KeysetBinding(challenge, KEYSET)
    evidence = booted.evidence(binding)

    def verified(what: Evidence):
        given = Endorsements(COLLATERAL)
        return authenticate(what, given, roots=roots, expected_nonce=challenge, now=NOW)

    assert verified(evidence).runtime == verified(evidence).runtime != ()
    other.extend_register(3, bytes(48))
    bound = other.evidence(binding)
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            verified(replace(bound, event_log=evidence.event_log))
        assert refused.value.code == "binding-mismatch"


def test_a_known_log_explains_no_other_registers():
    from attestation.binding import report_data

    roots, challenge = Roots(INTEL.root_der, simulated=True), nonce(bytes(32))
    guest, binding = SoftwareGuest(INTEL), KeysetBinding(challenge, KEYSET)
    log, given = guest.event_log(), Endorsements(COLLATERAL)
    bound = report_data(binding, event_log=log, gpu_evidence=b"")
    good = Evidence(guest.quote(bound), log, b"", binding)
    authenticate(good, given, roots=roots, expected_nonce=challenge, now=NOW)
    guest.extend_register(2, b"\x01" * 48)
    stale = replace(good, quote=guest.quote(bound))
    with pytest.raises(Refusal) as refused:
        authenticate(stale, given, roots=roots, expected_nonce=challenge, now=NOW)
    assert refused.value.code == "eventlog-mismatch"


@pytest.mark.parametrize("document", [Keyset, Posture, ServedModel])
def test_fields_of_a_keyset_stand_in_canonical_order(document):
    names = list(document.model_fields)
    assert names == sorted(names)


@pytest.mark.parametrize("text", ["Bank", 'a "b" \\ /', "é\u2028\U0001f600\x80", "<&>"])
def test_a_keyset_is_hashed_in_canonical_json(text):
    posture = KEYSET.posture.model_copy(update={"operator": text})
    keyset = KEYSET.model_copy(update={"posture": posture})
    assert keyset.canonical() == canonical_json(keyset.model_dump(mode="json"))
