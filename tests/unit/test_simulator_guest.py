"""The software TD: it measures as a real one, and its lies are told apart by the verifier."""

from dataclasses import replace

import pytest

from attestation.binding import KbsBinding, KeysetBinding
from attestation.errors import NotAffirmed, NotAuthentic
from attestation.keyset import Keyset
from attestation.policy import Policy
from attestation.simulator.firmware import encode_table
from attestation.simulator.guest import LAUNCH, SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.pki import Machine
from attestation.simulator.policy import policy_yaml
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.tdx.layout import V5
from attestation.types import Digest, nonce
from attestation.verifier import Verifier
from tests.simulated_tdx import NOW, mock_intel

CONFIG, MODEL = Digest.sha256(b"config"), Digest.sha256(b"model")
NONCE = nonce(bytes(range(32)))
KEYSET = Keyset.model_validate_json(
    b'{"version":1,"tls_spki":"sha256:%s","config":"%s",'
    b'"models":[{"name":"qwen3","manifest":"%s","weights":"sealed"}],'
    b'"posture":{"retention":"none","training":"none","operator":"tests","jurisdiction":"none",'
    b'"engine":"none","audit":["request_id"],"filters":[],"telemetry":[]}}'
    % (b"ab" * 32, str(CONFIG).encode(), str(MODEL).encode())
)


def measured(**options):
    """Return a guest that measured its configuration and its model."""
    guest = SoftwareGuest(mock_intel(), **options)
    guest.extend(RuntimeEvent("tacit.inference/v1", "config", str(CONFIG)))
    guest.extend(RuntimeEvent("tacit.inference/v1", "model", f"qwen3={MODEL}"))
    return guest


def verifier_for(guest):
    text = policy_yaml(guest.report, guest.intel, config=CONFIG, models={"qwen3": MODEL})
    return Verifier(Policy.load(text, name="policy.yaml"))


def verify(guest, verifier=None):
    evidence = guest.evidence(KeysetBinding(NONCE, KEYSET))
    decides = verifier or verifier_for(SoftwareGuest(mock_intel()))
    return decides.verify(evidence, guest.endorsements(), expected_nonce=NONCE, now=NOW)


def test_an_honest_guest_is_affirmed_by_the_policy_written_for_it():
    verify(measured()).affirmed(NOW)


def test_a_v5_guest_of_td_15_is_affirmed_too():
    guest = measured(header=V5, measurements={"tee_tcb_svn2": LAUNCH.tee_tcb_svn})
    verify(guest).affirmed(NOW)


def test_the_same_guest_answers_a_key_broker():
    guest = measured()
    binding = KbsBinding("bm9uY2U=", {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "")
    result = verifier_for(guest).verify(
        guest.evidence(binding), guest.endorsements(), expected_nonce="bm9uY2U=", now=NOW
    )
    result.affirmed(NOW)


def test_a_debug_guest_is_refused():
    with pytest.raises(NotAffirmed) as refusal:
        verify(measured(debug=True))
    assert refusal.value.code == "tdx-debug"


@pytest.mark.parametrize("register", ["rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_a_register_that_the_log_does_not_explain_is_refused(register):
    with pytest.raises(NotAuthentic):
        verify(measured(measurements={register: b"\x01" * 48}))


@pytest.mark.parametrize(
    "options",
    [
        {"measurements": {"mrtd": b"\x01" * 48}},
        {"measurements": {"mr_seam": b"\x01" * 48}},
        {"mr_config_id": b"\x01" * 48},
        {"xfam": bytes.fromhex("0300000000000000")},
    ],
    ids=["mrtd", "mrseam", "mrconfigid", "xfam"],
)
def test_a_guest_launched_otherwise_is_not_affirmed(options):
    with pytest.raises(NotAffirmed):
        verify(measured(**options)).affirmed(NOW)


def test_a_guest_on_another_machine_is_not_affirmed():
    elsewhere = mock_intel().on(Machine(ppid=b"\x01" * 16))
    guest = SoftwareGuest(elsewhere)
    guest.extend(RuntimeEvent("tacit.inference/v1", "config", str(CONFIG)))
    guest.extend(RuntimeEvent("tacit.inference/v1", "model", f"qwen3={MODEL}"))
    with pytest.raises(NotAffirmed):
        verify(guest).affirmed(NOW)


def test_a_guest_under_another_root_is_a_forgery():
    stranger = SoftwareGuest(MockIntel.generate(NOW))
    with pytest.raises(NotAuthentic):
        verify(stranger)


def test_every_verdict_over_a_software_td_says_simulated():
    assert verifier_for(measured()).policy.roots.simulated


def test_the_log_explains_every_register():
    guest = measured()
    log = EventLog.parse(guest.event_log())
    assert log.replay() == guest.report.rtmrs
    assert log.runtime_events() == guest.runtime_events


def test_the_firmware_log_fills_its_area_and_explains_the_launch():
    log = SoftwareGuest(mock_intel()).firmware_log()
    assert len(log) == 64 * 1024
    assert EventLog.parse(log).replay() == LAUNCH.rtmrs
    assert EventLog.parse(log).summary().duplicate_separators == ()


def test_an_extension_has_exactly_48_bytes():
    with pytest.raises(ValueError, match="47 bytes"):
        SoftwareGuest(mock_intel()).extend_register(3, bytes(47))


def test_the_acpi_table_is_of_a_tdx_guest_and_sums_to_zero():
    table = encode_table(65536)
    assert table[:4] == b"CCEL"
    assert int.from_bytes(table[4:8], "little") == len(table) == 56
    assert table[36] == 2  # confidential computing type: TDX
    assert int.from_bytes(table[40:48], "little") == 65536
    assert sum(table) % 256 == 0


def test_a_policy_for_set_owner_fields_pins_them():
    report = replace(LAUNCH, mr_owner=b"\x02" * 48)
    text = policy_yaml(report, mock_intel(), config=CONFIG, models={"qwen3": MODEL})
    (accepted,) = Policy.load(text, name="p").file.tdx.guests
    assert accepted.accepted["mr_owner"] == (b"\x02" * 48,)
    assert accepted.accepted["mr_config_id"] == (bytes(48),)
