"""Every published advisory and pitfall of TDX verifiers, one test each; GPU ones are beside these.

The ids are those of our own survey: A1 forged quoting enclave (CVE-2026-22696), A2 TDX module
identity, A3 statuses, A4 vendor, A5 component lists, A6 hostile lengths, A7 revocation, A8 rollback
of collateral, A9 dates, A10 module status over platform status, A11 SVNs of TDX 1.5, A12 debug TDs,
A13 MRCONFIGID, A14 simulators in production, A15 event logs, A16 relays (CVE-2026-33697), A17
TEE.fail, A18 to A23 GPUs, A24 service TDs, A25 expiry, A26 DICE quotes.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from attestation.appraise import appraise_facts
from attestation.authenticate import authenticate
from attestation.errors import ConfigError, Malformed, NotAuthentic, Refusal, Undecidable
from attestation.facts import Facts
from attestation.policy import Policy, intel_roots
from attestation.report import Report
from attestation.simulator.guest import LAUNCH
from attestation.simulator.intel import Crl, QuotingEnclave, Statements
from attestation.simulator.pki import Role
from attestation.simulator.statements import (
    IsvLevel,
    Module,
    PlatformLevel,
    QeIdentity,
    TcbInfo,
    Validity,
)
from attestation.tdx.claims import TcbStatus
from attestation.tdx.eventlog import NO_EVENTS, EventLog
from attestation.tdx.layout import V5, Header
from attestation.tdx.quote import verify_quote
from attestation.types import Digest, nonce
from tests.appraisal_world import (
    NONCE,
    NOW,
    World,
    changed_policy,
    changed_text,
    intel,
    policy_text,
    simulated_roots,
)
from tests.shared_data import vectors

DAY = timedelta(days=1)
INTEL_ROOT = intel_roots().tdx_der
OLD = b"\x01" * 32


def verify(report=LAUNCH, *, state=None, enclave=None, header=None, quote=None, now=NOW):
    """Verify one forged quote; everything that is not given is what Intel would have signed."""
    with_header = {} if header is None else {"header": header}
    quote = quote or intel().quote(report, enclave=enclave or QuotingEnclave(), **with_header)
    collateral = intel().collateral(NOW, state=state or Statements())
    return verify_quote(quote, collateral, root_der=intel().root_der, now=now)


def code(**forged) -> str:
    with pytest.raises(Refusal) as refusal:
        verify(**forged)
    return refusal.value.code


def tcb(**changes) -> Statements:
    return Statements(tcb_info=TcbInfo(**changes))


def qe(**changes) -> Statements:
    return Statements(qe_identity=QeIdentity(**changes))


def genuine(folder: str, collateral: str, at: int):
    return verify_quote(
        vectors(folder, "quote.bin").read_bytes(),
        vectors(folder, collateral).read_bytes(),
        root_der=INTEL_ROOT,
        now=datetime.fromtimestamp(at, UTC),
    )


def failed(world: World) -> list[str]:
    return [check.id for check in world.result().failed]


def test_a1_a_forged_quoting_enclave_is_refused():
    for enclave in (
        QuotingEnclave(mr_signer=OLD),
        QuotingEnclave(isv_prod_id=1),
        QuotingEnclave(attributes=b"\x13" + QuotingEnclave().attributes[1:]),
    ):
        assert code(enclave=enclave) == "tdx-quoting-enclave"
    assert code(enclave=QuotingEnclave(isv_svn=1)) == "tcb-unknown"
    assert code(state=qe(id="QE")) == "collateral-mismatch"


def test_a1_genuine_collateral_of_sgx_does_not_vouch_for_a_td_quoting_enclave():
    with pytest.raises(Undecidable, match="collateral-mismatch"):
        genuine("tdx-v4-b0c06f-swapped-collateral", "collateral-sgx-qe-identity.json", 1751623699)


def test_a2_a_tdx_module_that_intel_does_not_list_is_refused():
    svn = LAUNCH.tee_tcb_svn
    assert code(report=replace(LAUNCH, tee_tcb_svn=b"\x07\x09" + svn[2:])) == "collateral-mismatch"
    assert code(report=replace(LAUNCH, tee_tcb_svn=b"\x01" + svn[1:])) == "tcb-unknown"
    assert code(report=replace(LAUNCH, mr_signer_seam=b"\x01" * 48)) == "tdx-module"
    assert code(report=replace(LAUNCH, seam_attributes=b"\x01" + bytes(7))) == "tdx-module"


@pytest.mark.parametrize("status", list(TcbStatus))
def test_a3_only_the_statuses_a_policy_names_pass(status):
    if status is TcbStatus.REVOKED:
        assert code(state=tcb(levels=(PlatformLevel(status=status.value),))) == "tcb-revoked"
        return
    if status.value.startswith("TDRelaunch"):  # Intel's library derives it, nobody signs it
        facts = World().result().claims
        judged = replace(facts, tdx=replace(facts.tdx, tcb=replace(facts.tdx.tcb, status=status)))
        done = appraise_facts(judged, World().policy, now=NOW)
        assert [check.id for check in done.failed] == ["tdx.tcb-status"]
        return
    refused = failed(World(state=tcb(levels=(PlatformLevel(status=status.value),))))
    assert refused == ([] if status is TcbStatus.UP_TO_DATE else ["tdx.tcb-status"])


def test_a4_a_quote_of_another_vendor_is_refused():
    assert code(header=Header(vendor=bytes(16))) == "quote-unsupported"


@pytest.mark.parametrize("count", [15, 17])
def test_a5_a_component_list_of_another_length_is_refused(count):
    svns = (*PlatformLevel().sgx_svns, 0)[:count]
    assert code(state=tcb(levels=(PlatformLevel(sgx_svns=svns),))) == "collateral-malformed"


def test_a6_a_length_that_claims_gigabytes_reads_nothing():
    quote = intel().quote(LAUNCH)
    huge = struct.pack("<I", 0xFFFFFFFF)
    outer = 48 + 584
    for at in (outer, outer + 4 + 128 + 2):
        assert code(quote=quote[:at] + huge + quote[at + 4 :]) == "quote-malformed"
    assert code(quote=bytes(128 * 1024 + 1)) == "too-large"
    log = World().evidence().event_log
    with pytest.raises(Malformed):
        EventLog.parse(log[:28] + huge + log[32:])
    with pytest.raises(Malformed, match="too-large"):
        EventLog.parse(bytes(1024 * 1024 + 1))
    with pytest.raises(Malformed):
        Report.parse(b"[" * 3_000_000)
    with pytest.raises(Malformed, match="too-large"):
        Report.parse(b" " * (4 * 1024 * 1024 + 1))


def test_a6_nothing_is_decompressed():
    with pytest.raises(Malformed):
        Report.parse(b"\x1f\x8b\x08\x00" + bytes(64))


@pytest.mark.parametrize("role", [Role.PCK, Role.PLATFORM_CA, Role.TCB, Role.ROOT])
def test_a7_a_revoked_certificate_is_refused_wherever_it_stands(role):
    listed = "pck_crl" if role is Role.PCK else "root_crl"
    assert code(state=Statements(**{listed: Crl(revoked=(role,))})) == "tdx-revoked"


@pytest.mark.parametrize("listed", ["pck_crl", "root_crl"])
def test_a7_a_revocation_list_of_another_day_decides_nothing(listed):
    past, future = Validity(-10 * DAY, -DAY), Validity(DAY, 10 * DAY)
    assert code(state=Statements(**{listed: Crl(past)})) == "crl-expired"
    assert code(state=Statements(**{listed: Crl(future)})) == "crl-future"


def test_a7_genuine_collateral_of_another_platform_is_refused():
    with pytest.raises(Undecidable, match="collateral-mismatch"):
        genuine("tdx-v4-b0c06f-swapped-collateral", "collateral-other-fmspc.json", 1751008086)


def test_a8_an_old_set_that_looks_good_is_refused_in_three_ways():
    folder, old, new = "tdx-v4-b0c06f-tcb-recovery", "collateral-2025-06.json", 1787894484
    assert genuine(folder, old, 1751624191).tcb.status is TcbStatus.UP_TO_DATE
    with pytest.raises(Undecidable):  # replayed after its window
        genuine(folder, old, new)
    assert genuine(folder, "collateral-2026-08.json", new).tcb.status is TcbStatus.OUT_OF_DATE
    # replayed within its window: the policy's own age and number
    assert failed(World(now=NOW + 20 * DAY)) == []
    policy = changed_policy("tdx/tcb/collateral_max_age_days", 7)
    assert failed(World(now=NOW + 20 * DAY, policy=policy)) == ["tdx.collateral-age"]
    policy = changed_policy("tdx/tcb/minimum_evaluation_number", 22)
    assert failed(World(policy=policy)) == ["tdx.evaluation-number"]


def test_a8_the_older_of_two_evaluation_numbers_counts():
    claims = genuine("tdx-v4-b0c06f-tcb-recovery", "collateral-2026-08.json", 1787894484)
    assert {claims.tcb.tcb_info_evaluation, claims.tcb.qe_identity_evaluation} == {19, 20}
    assert claims.tcb.evaluation == 19


def test_a9_dates_are_instants_not_text():
    def offset(document):
        """Write the window in another zone: as text `2026-11-26T02` sorts after now's `…25T12`."""
        local = NOW - timedelta(hours=1) + timedelta(hours=14)
        return {**document, "issueDate": local.strftime("%Y-%m-%dT%H:%M:%S+14:00")}

    assert verify(state=tcb(amend=offset)).tcb.status is TcbStatus.UP_TO_DATE

    def fraction(document):
        return {**document, "nextUpdate": (NOW + 5 * DAY).strftime("%Y-%m-%dT%H:%M:%S.500Z")}

    claims = verify(state=tcb(amend=fraction))
    assert claims.collateral.tcb_info.expires == NOW + 5 * DAY + timedelta(milliseconds=500)

    def bare(document):
        return {**document, "issueDate": "2026-11-24T12:00:00"}

    assert code(state=tcb(amend=bare)) == "collateral-malformed"


def test_a9_an_older_module_dates_the_platform():
    dated = Module(levels=(IsvLevel(svn=7, date="2024-01-01T00:00:00Z"),))
    assert verify(state=tcb(modules=(dated,))).tcb.platform.date == datetime(2024, 1, 1, tzinfo=UTC)


def test_a10_a_good_module_does_not_hide_an_outdated_platform():
    outdated = tcb(levels=(PlatformLevel(status="OutOfDate"),))
    assert verify(state=outdated).tcb.status is TcbStatus.OUT_OF_DATE
    assert failed(World(state=outdated)) == ["tdx.tcb-status"]


def test_a11_the_svns_of_a_tdx_15_module_are_not_compared_with_the_platforms():
    claims = genuine("tdx-v4-00806f-gcp-cos-ccel", "collateral-2025-06.json", 1750325734)
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.report.tee_tcb_svn[1] > 0


def test_a12_a_debug_td_is_refused_even_genuine_and_even_if_a_policy_asks():
    with pytest.raises(Refusal, match="tdx-debug"):
        genuine("tdx-v4-50806f-debug-td", "collateral-2026-03.json", 1774995904)
    for attributes, refusal in ((0x10000001, "tdx-debug"), (0, "tdx-attributes")):
        report = replace(LAUNCH, td_attributes=attributes.to_bytes(8, "little"))
        assert code(report=report) == refusal
    with pytest.raises(ConfigError, match="debug"):
        changed_policy("tdx/td_attributes/value", "0100001000000000")
    with pytest.raises(ConfigError, match="debug"):
        changed_policy("tdx/td_attributes/mask", "00ffffffffffffff")


def test_a13_a_config_id_of_zeros_matches_no_expected_one():
    policy = changed_policy("tdx/guests/0/mr_config_id", "5a" * 48)
    assert failed(World(policy=policy)) == ["tdx.mr-config-id"]
    set_by_host = World(launch={"mr_config_id": b"\x5a" * 48})
    assert failed(set_by_host) == ["tdx.mr-config-id"]
    with pytest.raises(ConfigError):  # zeros must be written as the word `unset`
        changed_policy("tdx/guests/0/mr_config_id", "00" * 48)


def test_a14_a_simulator_is_no_machine_for_production():
    evidence, staple = World().evidence(), World().guest().endorsements(NOW)
    with pytest.raises(NotAuthentic, match="tdx-chain"):
        authenticate(evidence, staple, roots=intel_roots(), expected_nonce=NONCE, now=NOW)
    with pytest.raises(ConfigError, match="profile production"):
        changed_policy("profile", "production")
    pem = pem_of(vectors("intel-root", "intel_sgx_root_ca.der").read_bytes())
    with pytest.raises(ConfigError, match="the root is Intel's"):
        changed_policy("root/simulated", pem)
    assert World().result().claims.simulated
    # and simulated claims under a production policy, should anybody ever get them there
    text = policy_text(simulated=False).encode()
    assert failed(World(policy=Policy.load(text, name="p")))[0] == "root.simulated"


def pem_of(der: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def with_log(log: bytes, *, extended: Sequence[bytes] = ()) -> str:
    """Quote over `log` as a guest that controls its own log would, and return the refusal."""
    world = World()
    evidence, guest = world.evidence(), world.guest()
    from attestation.binding import report_data

    for digest in extended:
        guest.extend_register(0, digest)
    bound = report_data(evidence.binding, event_log=log, gpu_evidence=b"")
    forged = replace(evidence, event_log=log, quote=guest.quote(bound))
    with pytest.raises(Refusal) as refusal:
        authenticate(
            forged,
            guest.endorsements(NOW),
            roots=simulated_roots(),
            expected_nonce=NONCE,
            now=NOW,
        )
    return refusal.value.code


def test_a15_a_payload_is_bound_to_what_was_measured():
    log = World().evidence().event_log
    assert log.count(b"qwen3-demo=") == 1
    assert with_log(log.replace(b"qwen3-demo=", b"qwen3-evil=")) == "eventlog-payload"


def test_a15_a_log_of_another_boot_is_refused():
    assert with_log(World(events=()).evidence().event_log) == "eventlog-mismatch"


def test_a15_a_genuine_dstack_log_with_another_payload_is_refused():
    entries = json.loads(vectors("tdx-v4-90c06f-dstack-eventlog", "event_log.json").read_text())
    (entry,) = (one for one in entries if one["event"] == "compose-hash")
    entry["event_payload"] = "00" * (len(entry["event_payload"]) // 2)
    with pytest.raises(NotAuthentic, match="eventlog-payload"):
        EventLog.parse_dstack(json.dumps(entries).encode()).runtime_events()


def test_a15_a_register_that_was_separated_too_often_is_refused_although_the_quote_agrees():
    log, zero = World().evidence().event_log, hashlib.sha384(bytes(4)).digest()
    separator = struct.pack("<IIIH48sI", 1, 4, 1, 0xC, zero, 4) + bytes(4)
    assert with_log(log + separator * 2, extended=[zero] * 2) == "eventlog-separator"


def test_a15_a_second_separator_is_seen():
    log = EventLog.parse(vectors("ccel-ovmf-grub", "ccel_ovmf.bin").read_bytes())
    assert log.summary().duplicate_separators == (0,)


def test_a16_evidence_of_another_session_or_another_key_is_refused():
    evidence, staple = World().evidence(), World().guest().endorsements(NOW)
    with pytest.raises(NotAuthentic, match="nonce-mismatch"):
        authenticate(evidence, staple, roots=simulated_roots(), expected_nonce=nonce(OLD), now=NOW)
    report = Report.build(evidence, staple)
    with pytest.raises(NotAuthentic, match="tls-key-mismatch"):
        report.check_tls_key(Digest.sha256(b"the relay's own key"))
    other = report.keyset.model_copy(update={"tls_spki": str(Digest.sha256(b"the relay's"))})
    with pytest.raises(NotAuthentic, match="binding-mismatch"):
        authenticate(
            replace(report, keyset=other).evidence,
            staple,
            roots=simulated_roots(),
            expected_nonce=NONCE,
            now=NOW,
        )


def test_a17_a_machine_nobody_listed_is_refused_where_platforms_are_listed():
    known = World().result().claims.tdx.platform.ppid.hex()
    assert failed(World(policy=changed_policy("tdx/platforms", [known]))) == []
    assert failed(World(policy=changed_policy("tdx/platforms", ["5a" * 16]))) == ["tdx.platform"]


def test_a24_a_bound_service_td_is_refused():
    with pytest.raises(Refusal, match="tdx-service-td"):
        genuine("tdx-v5-td15-90c06f-service-td", "collateral-2025-06.json", 1750357898)
    bound = replace(LAUNCH, tee_tcb_svn2=LAUNCH.tee_tcb_svn, mr_service_td=b"\x01" * 48)
    assert code(report=bound, header=V5) == "tdx-service-td"


def test_a25_a_verdict_ends_when_the_first_statement_does_and_says_so():
    short = Statements(pck_crl=Crl(Validity(-DAY, 3 * DAY)))
    result = World(state=short).result()
    assert result.expires_at == NOW + 3 * DAY
    result.affirmed(NOW + 3 * DAY - timedelta(seconds=1))
    with pytest.raises(Refusal, match="result-expired"):
        result.affirmed(NOW + 3 * DAY)
    assert code(state=short, now=NOW + 3 * DAY) == "crl-expired"


@pytest.mark.parametrize("tag", [b"\xd8\x3d", b"\xd9\xea\x60", b"\xa2\x01", b"\x84\x43"])
def test_a26_a_dice_quote_in_cbor_is_named_and_not_parsed(tag):
    for size in (100, 8 * 1024, 100 * 1024):
        assert code(quote=tag + bytes(size)) == "quote-unsupported"


def test_a_bare_quote_is_never_more_than_it_shows():
    claims = genuine("tdx-v4-b0c06f-tcb-recovery", "collateral-2025-06.json", 1751624191)
    facts = Facts(simulated=False, tdx=claims, runtime=(), events=NO_EVENTS, binding=None)
    text = changed_text("tdx/tcb/minimum_evaluation_number", 1, text=policy_text(simulated=False))
    done = appraise_facts(facts, Policy.load(text, name="p"), now=NOW)
    assert "runtime.events" in {check.id for check in done.failed}
