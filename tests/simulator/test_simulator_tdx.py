"""Each lie a platform, a guest or a collateral server can tell, and the code it is refused with.

The statements are signed for real, so a check that is missing shows as a quote that verifies.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import ConfigError, Refusal
from attestation.simulator.guest import LAUNCH
from attestation.simulator.intel import Crl, MockIntel, QuotingEnclave, Statements
from attestation.simulator.pki import Machine, Role
from attestation.simulator.statements import (
    IsvLevel,
    Module,
    PlatformLevel,
    QeIdentity,
    TcbInfo,
    Validity,
)
from attestation.tdx.claims import TcbStatus, TdReport
from attestation.tdx.layout import V4, V5, Header
from attestation.tdx.quote import verify_quote
from attestation.tdx.stated import Root
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
DAY = timedelta(days=1)
PAST = Validity(-10 * DAY, -DAY)
FUTURE = Validity(DAY, 10 * DAY)
OTHER_INTEL = MockIntel.generate(NOW)


@dataclass(frozen=True)
class Lie:
    """A machine, a guest and Intel's statements, one of them false."""

    report: TdReport = LAUNCH
    header: Header = V4
    enclave: QuotingEnclave = field(default_factory=QuotingEnclave)
    machine: Machine = field(default_factory=Machine)
    state: Statements = field(default_factory=Statements)
    trailing: bytes = bytes(70)
    intel: MockIntel = INTEL

    def verified(self):
        intel = self.intel.on(self.machine)
        quote = intel.quote(
            self.report, header=self.header, enclave=self.enclave, trailing=self.trailing
        )
        collateral = intel.collateral(NOW, state=self.state)
        return verify_quote(quote, collateral, root_der=INTEL.root_der, now=NOW)


def report(**changed):
    return Lie(report=replace(LAUNCH, **changed))


def attributes(*bits):
    value = sum(1 << bit for bit in bits)
    return report(td_attributes=value.to_bytes(8, "little"))


def tcb_info(**changed):
    return Lie(state=Statements(tcb_info=TcbInfo(**changed)))


def qe_identity(**changed):
    return Lie(state=Statements(qe_identity=QeIdentity(**changed)))


def enclave(**changed):
    return Lie(enclave=QuotingEnclave(**changed))


def without(name):
    def amend(document):
        return {key: value for key, value in document.items() if key != name}

    return amend


def components(count):
    def amend(document):
        for level in document["tcbLevels"]:
            level["tcb"]["sgxtcbcomponents"] = [{"svn": 0}] * count
        return document

    return amend


SVN2 = bytes([7, 1, 3]) + bytes(13)
LIES = {
    "tcb signed by the key of a machine": (Lie(state=Statements(signer=Role.PCK)), "tdx-role"),
    "tcb signed by the PCK authority": (
        Lie(state=Statements(signer=Role.PLATFORM_CA)),
        "tdx-chain",
    ),
    "another hierarchy": (Lie(intel=OTHER_INTEL), "tdx-chain"),
    "PCK revoked": (Lie(state=Statements(pck_crl=Crl(revoked=(Role.PCK,)))), "tdx-revoked"),
    "PCK authority revoked": (
        Lie(state=Statements(root_crl=Crl(revoked=(Role.PLATFORM_CA,)))),
        "tdx-revoked",
    ),
    "TCB signer revoked": (
        Lie(state=Statements(root_crl=Crl(revoked=(Role.TCB,)))),
        "tdx-revoked",
    ),
    "root revoked": (Lie(state=Statements(root_crl=Crl(revoked=(Role.ROOT,)))), "tdx-revoked"),
    "root CRL ended": (Lie(state=Statements(root_crl=Crl(PAST))), "crl-expired"),
    "PCK CRL ended": (Lie(state=Statements(pck_crl=Crl(PAST))), "crl-expired"),
    "root CRL from the future": (Lie(state=Statements(root_crl=Crl(FUTURE))), "crl-future"),
    "PCK CRL from the future": (Lie(state=Statements(pck_crl=Crl(FUTURE))), "crl-future"),
    "PCK ended": (Lie(intel=replace(INTEL, pck_validity=PAST)), "tdx-certificate-time"),
    "PCK from the future": (Lie(intel=replace(INTEL, pck_validity=FUTURE)), "tdx-certificate-time"),
    "TCB info ended": (tcb_info(validity=PAST), "collateral-expired"),
    "TCB info from the future": (tcb_info(validity=FUTURE), "collateral-future"),
    "QE identity ended": (qe_identity(validity=PAST), "collateral-expired"),
    "QE identity from the future": (qe_identity(validity=FUTURE), "collateral-future"),
    "TCB info of another family": (tcb_info(fmspc=bytes(6)), "collateral-mismatch"),
    "TCB info of another PCE": (tcb_info(pce_id=b"\x01\x00"), "collateral-mismatch"),
    "machine of another PCE": (Lie(machine=Machine(pce_id=b"\x01\x00")), "collateral-mismatch"),
    "TCB info of SGX": (tcb_info(id="SGX"), "collateral-mismatch"),
    "QE identity of SGX": (qe_identity(id="QE"), "collateral-mismatch"),
    "TCB info without PCE": (tcb_info(amend=without("pceId")), "collateral-malformed"),
    "15 components": (tcb_info(amend=components(15)), "collateral-malformed"),
    "17 components": (tcb_info(amend=components(17)), "collateral-malformed"),
    "no status of that name": (
        tcb_info(levels=(PlatformLevel(status="Fine"),)),
        "collateral-malformed",
    ),
    "platform revoked": (tcb_info(levels=(PlatformLevel(status="Revoked"),)), "tcb-revoked"),
    "module revoked": (
        tcb_info(modules=(Module(levels=(IsvLevel(svn=7, status="Revoked"),)),)),
        "tcb-revoked",
    ),
    "QE revoked": (qe_identity(levels=(IsvLevel(svn=4, status="Revoked"),)), "tcb-revoked"),
    "firmware below every level": (
        Lie(machine=Machine(sgx_svns=(1,) * 16, pce_svn=1)),
        "tcb-unknown",
    ),
    "module of an unknown version": (
        report(tee_tcb_svn=bytes([7, 9, 3]) + bytes(13)),
        "collateral-mismatch",
    ),
    "module below every level": (report(tee_tcb_svn=bytes([1, 1, 3]) + bytes(13)), "tcb-unknown"),
    "module of another signer": (report(mr_signer_seam=b"\x01" * 48), "tdx-module"),
    "module with attributes": (report(seam_attributes=b"\x01" + bytes(7)), "tdx-module"),
    "module older than at launch": (
        replace(report(tee_tcb_svn2=bytes([6, 1, 3]) + bytes(13)), header=V5),
        "tdx-module-rollback",
    ),
    "SEAM loader older than at launch": (
        replace(report(tee_tcb_svn2=bytes([7, 1, 2]) + bytes(13)), header=V5),
        "tdx-module-rollback",
    ),
    "debug": (attributes(0, 28), "tdx-debug"),
    "no SEPT_VE_DISABLE": (attributes(), "tdx-attributes"),
    "migratable": (attributes(28, 29), "tdx-attributes"),
    "profiled": (attributes(28, 4), "tdx-attributes"),
    "reserved attribute": (attributes(28, 20), "tdx-attributes"),
    "service TD": (
        replace(report(mr_service_td=b"\x01" * 48, tee_tcb_svn2=SVN2), header=V5),
        "tdx-service-td",
    ),
    "QE of another signer": (enclave(mr_signer=b"\x01" * 32), "tdx-quoting-enclave"),
    "QE of another product": (enclave(isv_prod_id=1), "tdx-quoting-enclave"),
    "QE in debug": (
        enclave(attributes=bytes.fromhex("1300000000000000e700000000000000")),
        "tdx-quoting-enclave",
    ),
    "QE below every level": (enclave(isv_svn=0), "tcb-unknown"),
    "QE authentication of 31 bytes": (enclave(auth=bytes(31)), "quote-malformed"),
    "SGX TEE": (Lie(header=Header(tee_type=0)), "quote-unsupported"),
    "version 3": (Lie(header=Header(version=3)), "quote-unsupported"),
    "version 6": (Lie(header=Header(version=6)), "quote-malformed"),
    "another key type": (Lie(header=Header(key_type=3)), "quote-unsupported"),
    "another vendor": (Lie(header=Header(vendor=bytes(16))), "quote-unsupported"),
    "junk behind the quote": (Lie(trailing=b"\0\0junk"), "quote-malformed"),
}


def code_of(lie):
    with pytest.raises(Refusal) as refused:
        lie.verified()
    return refused.value.code


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused(name):
    lie, code = LIES[name]
    assert code_of(lie) == code


def test_the_truth_is_accepted():
    claims = Lie().verified()
    assert claims.report == LAUNCH
    assert claims.tcb.status is TcbStatus.UP_TO_DATE


def test_any_padding_of_zeros_is_accepted():
    assert Lie(trailing=b"").verified() == Lie(trailing=bytes(4096)).verified()


def test_a_module_updated_under_a_running_guest_is_accepted():
    newer = bytes([8, 1, 3]) + bytes(13)
    claims = replace(report(tee_tcb_svn2=newer), header=V5).verified()
    assert claims.report.tee_tcb_svn2 == newer
    assert claims.quote_version == 5


@pytest.mark.parametrize(
    "status",
    [s for s in TcbStatus if s is not TcbStatus.REVOKED and "RELAUNCH" not in s.name],
)
def test_every_other_status_is_reported_for_the_policy_to_judge(status):
    claims = tcb_info(levels=(PlatformLevel(status=status.value),)).verified()
    assert claims.tcb.platform.status is status
    assert claims.tcb.status is status


@pytest.mark.parametrize(
    "status", [TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED]
)
def test_the_status_of_the_quoting_enclave_is_reported_on_its_own(status):
    claims = qe_identity(levels=(IsvLevel(svn=4, status=status.value),)).verified()
    assert claims.tcb.quoting_enclave.status is status


def test_an_outdated_platform_stays_so_under_a_new_module():
    claims = tcb_info(levels=(PlatformLevel(status="OutOfDate"),)).verified()
    assert claims.tcb.status is TcbStatus.OUT_OF_DATE


def test_an_outdated_module_makes_the_whole_outdated():
    old = Module(levels=(IsvLevel(svn=7, status="OutOfDate", advisories=("INTEL-SA-00001",)),))
    claims = tcb_info(modules=(old,)).verified()
    assert claims.tcb.status is TcbStatus.OUT_OF_DATE
    assert claims.tcb.advisories == ("INTEL-SA-00001",)


def test_a_guest_launched_before_its_module_was_mended_is_told_to_relaunch():
    outdated = bytes([2, 1, 3]) + bytes(13)
    mended = bytes([7, 1, 3]) + bytes(13)
    lie = replace(report(tee_tcb_svn=outdated, tee_tcb_svn2=mended), header=V5)
    assert lie.verified().tcb.status is TcbStatus.TD_RELAUNCH_ADVISED


@pytest.mark.parametrize("bit", sorted({*range(64)} - {16, 27, 28, 30, 31, 62, 63}))
def test_no_attribute_that_weakens_or_has_no_name_is_accepted(bit):
    assert code_of(attributes(28, bit)) in {"tdx-attributes", "tdx-debug"}


def test_the_date_of_an_older_module_counts_for_the_platform():
    old = Module(levels=(IsvLevel(svn=7, date="2020-01-01T00:00:00Z"),))
    assert tcb_info(modules=(old,)).verified().tcb.platform.date == datetime(2020, 1, 1, tzinfo=UTC)


def test_the_older_evaluation_number_counts():
    claims = Lie(
        state=Statements(tcb_info=TcbInfo(evaluation=22), qe_identity=QeIdentity(evaluation=19))
    ).verified()
    assert (claims.tcb.tcb_info_evaluation, claims.tcb.qe_identity_evaluation) == (22, 19)
    assert claims.tcb.evaluation == 19


def test_claims_end_with_whatever_ends_first():
    soon = Crl(Validity(-DAY, 3 * DAY))
    claims = Lie(state=Statements(pck_crl=soon)).verified()
    assert claims.collateral.expires == NOW + 3 * DAY


def test_a_root_that_is_no_sgx_root_is_a_configuration_error():
    with pytest.raises(ConfigError) as refused:
        Root.parse(INTEL.platform_ca.certificate.public_bytes(Encoding.DER))
    assert refused.value.code == "tdx-root"
