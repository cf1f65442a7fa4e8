"""What dcap-qvl alone says to really signed forgeries: the floor that our own checks stand on.

A row that moves from one table to the other after an upgrade of dcap-qvl changes what
`attestation.tdx.checks` must do.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import dcap_qvl
import pytest

from attestation.simulator.guest import LAUNCH
from attestation.simulator.intel import (
    GENUINE,
    GENUINE_ENCLAVE,
    QGS_PADDING,
    Crl,
    MockIntel,
    QuotingEnclave,
    Statements,
)
from attestation.simulator.pki import Machine, Role
from attestation.simulator.statements import (
    IsvLevel,
    Module,
    PlatformLevel,
    QeIdentity,
    TcbInfo,
    Validity,
)
from attestation.tdx.claims import TdReport
from attestation.tdx.layout import V4, V5, Header
from tests.simulated_tdx import NOW, mock_intel

DAY = timedelta(days=1)
FUTURE = Validity(issued=DAY, expires=30 * DAY)
EXPIRED = Validity(issued=-30 * DAY, expires=-DAY)
TD15 = replace(LAUNCH, tee_tcb_svn2=LAUNCH.tee_tcb_svn)


@dataclass(frozen=True)
class Forged:
    """Evidence in which one thing differs from what an honest guest and Intel would sign."""

    intel: MockIntel = field(default_factory=mock_intel)
    report: TdReport = LAUNCH
    state: Statements = GENUINE
    header: Header = V4
    enclave: QuotingEnclave = GENUINE_ENCLAVE
    trailing: bytes = QGS_PADDING
    now: datetime = NOW
    root: bytes = field(default_factory=lambda: mock_intel().root_der)

    def verdict(self):
        """Return dcap-qvl's report, or raise its ValueError."""
        quote = self.intel.quote(
            self.report, header=self.header, enclave=self.enclave, trailing=self.trailing
        )
        text = self.intel.collateral(self.now, state=self.state).decode()
        collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
        return dcap_qvl.verify_with_root_ca(quote, collateral, self.root, int(self.now.timestamp()))


def attributes(*bits, sept_ve_disable=True):
    value = sum(1 << bit for bit in bits) | (sept_ve_disable << 28)
    return replace(LAUNCH, td_attributes=value.to_bytes(8, "little"))


def tcb_info(**changes):
    return Statements(tcb_info=TcbInfo(**changes))


def qe_identity(**changes):
    return Statements(qe_identity=QeIdentity(**changes))


def crl(**which):
    return Statements(**which)


ACCEPTED = {
    "statements-signed-by-a-pck-key": (
        lambda: Forged(state=Statements(signer=Role.PCK)),
        "UpToDate",
    ),
    "other-pce-id": (lambda: Forged(state=tcb_info(pce_id=b"\x01\x00")), "UpToDate"),
    "pck-crl-from-the-future": (
        lambda: Forged(state=crl(pck_crl=Crl(validity=FUTURE))),
        "UpToDate",
    ),
    "root-crl-from-the-future": (
        lambda: Forged(state=crl(root_crl=Crl(validity=FUTURE))),
        "UpToDate",
    ),
    "trailing-junk": (lambda: Forged(trailing=b"not zero"), "UpToDate"),
    "xfam-all-ones": (lambda: Forged(report=replace(LAUNCH, xfam=b"\xff" * 8)), "UpToDate"),
    "mr-config-id-set": (
        lambda: Forged(report=replace(LAUNCH, mr_config_id=b"\x01" * 48)),
        "UpToDate",
    ),
    "icssd": (lambda: Forged(report=attributes(16)), "UpToDate"),
    "lass": (lambda: Forged(report=attributes(27)), "UpToDate"),
    "pks": (lambda: Forged(report=attributes(30)), "UpToDate"),
    "key-locker": (lambda: Forged(report=attributes(31)), "UpToDate"),
    "tpa": (lambda: Forged(report=attributes(62)), "UpToDate"),
    "perfmon": (lambda: Forged(report=attributes(63)), "UpToDate"),
    "module-older-than-at-launch": (
        lambda: Forged(
            header=V5, report=replace(TD15, tee_tcb_svn2=b"\x03" + LAUNCH.tee_tcb_svn[1:])
        ),
        "UpToDate",
    ),
    "module-updated-since-launch": (
        lambda: Forged(
            header=V5, report=replace(TD15, tee_tcb_svn=b"\x02" + LAUNCH.tee_tcb_svn[1:])
        ),
        "TDRelaunchAdvised",
    ),
    "quoting-enclave-needs-configuration": (
        lambda: Forged(
            state=qe_identity(levels=(IsvLevel(svn=4, status="OutOfDateConfigurationNeeded"),))
        ),
        "UpToDate",
    ),
    **{
        f"status-{status}": (
            lambda status=status: Forged(state=tcb_info(levels=(PlatformLevel(status=status),))),
            status,
        )
        for status in (
            "SWHardeningNeeded",
            "ConfigurationNeeded",
            "ConfigurationAndSWHardeningNeeded",
            "OutOfDate",
            "OutOfDateConfigurationNeeded",
        )
    },
}

REJECTED = {
    "wrong-root": lambda: Forged(root=MockIntel.generate(NOW).root_der),
    "pck-revoked": lambda: Forged(state=crl(pck_crl=Crl(revoked=(Role.PCK,)))),
    "platform-ca-revoked": lambda: Forged(state=crl(root_crl=Crl(revoked=(Role.PLATFORM_CA,)))),
    "tcb-signer-revoked": lambda: Forged(state=crl(root_crl=Crl(revoked=(Role.TCB,)))),
    "root-revoked": lambda: Forged(state=crl(root_crl=Crl(revoked=(Role.ROOT,)))),
    "root-crl-expired": lambda: Forged(state=crl(root_crl=Crl(validity=EXPIRED))),
    "pck-crl-expired": lambda: Forged(state=crl(pck_crl=Crl(validity=EXPIRED))),
    "tcb-info-expired": lambda: Forged(state=tcb_info(validity=EXPIRED)),
    "tcb-info-from-the-future": lambda: Forged(state=tcb_info(validity=FUTURE)),
    "qe-identity-expired": lambda: Forged(state=qe_identity(validity=EXPIRED)),
    "qe-identity-from-the-future": lambda: Forged(state=qe_identity(validity=FUTURE)),
    "pck-expired": lambda: Forged(intel=replace(mock_intel(), pck_validity=EXPIRED)),
    "pck-from-the-future": lambda: Forged(intel=replace(mock_intel(), pck_validity=FUTURE)),
    "other-fmspc": lambda: Forged(state=tcb_info(fmspc=b"\x01" * 6)),
    "machine-below-every-level": lambda: Forged(
        intel=mock_intel().on(Machine(sgx_svns=(0,) * 16, pce_svn=0))
    ),
    "debug-td": lambda: Forged(report=attributes(0)),
    "profiling-td": lambda: Forged(report=attributes(1)),
    "reserved-bit": lambda: Forged(report=attributes(40)),
    "no-sept-ve-disable": lambda: Forged(report=attributes(sept_ve_disable=False)),
    "migratable-td": lambda: Forged(report=attributes(29)),
    "service-td": lambda: Forged(header=V5, report=replace(TD15, mr_service_td=b"\x01" * 48)),
    "qe-debug": lambda: Forged(
        enclave=QuotingEnclave(attributes=b"\x13" + GENUINE_ENCLAVE.attributes[1:])
    ),
    "qe-isvsvn-low": lambda: Forged(enclave=QuotingEnclave(isv_svn=1)),
    "qe-of-another-signer": lambda: Forged(enclave=QuotingEnclave(mr_signer=b"\x01" * 32)),
    "qe-of-another-product": lambda: Forged(enclave=QuotingEnclave(isv_prod_id=1)),
    "qe-identity-of-sgx": lambda: Forged(state=qe_identity(id="QE")),
    "tcb-info-of-sgx": lambda: Forged(state=tcb_info(id="SGX")),
    "platform-status-revoked": lambda: Forged(
        state=tcb_info(levels=(PlatformLevel(status="Revoked"),))
    ),
    "module-status-revoked": lambda: Forged(
        state=tcb_info(modules=(Module(levels=(IsvLevel(svn=7, status="Revoked"),)),))
    ),
    "qe-status-revoked": lambda: Forged(
        state=qe_identity(levels=(IsvLevel(svn=4, status="Revoked"),))
    ),
    "unknown-status": lambda: Forged(
        state=tcb_info(levels=(PlatformLevel(status="QuiteUpToDate"),))
    ),
    "fifteen-components": lambda: Forged(
        state=tcb_info(levels=(PlatformLevel(sgx_svns=Machine().sgx_svns[:15]),))
    ),
    "seventeen-components": lambda: Forged(
        state=tcb_info(levels=(PlatformLevel(tdx_svns=(*LAUNCH.tee_tcb_svn, 0)),))
    ),
    "module-svn-low": lambda: Forged(
        report=replace(LAUNCH, tee_tcb_svn=b"\x01" + LAUNCH.tee_tcb_svn[1:])
    ),
    "module-unknown": lambda: Forged(
        report=replace(LAUNCH, tee_tcb_svn=b"\x07\x09" + LAUNCH.tee_tcb_svn[2:])
    ),
    "module-of-another-signer": lambda: Forged(report=replace(LAUNCH, mr_signer_seam=b"\x01" * 48)),
    "seam-attributes": lambda: Forged(report=replace(LAUNCH, seam_attributes=b"\x01" + bytes(7))),
    "qe-auth-of-31-bytes": lambda: Forged(enclave=QuotingEnclave(auth=bytes(31))),
    "qe-auth-of-33-bytes": lambda: Forged(enclave=QuotingEnclave(auth=bytes(33))),
    "other-vendor": lambda: Forged(header=Header(vendor=bytes(16))),
    "other-key-type": lambda: Forged(header=Header(key_type=3)),
    "other-tee": lambda: Forged(header=Header(tee_type=0x82)),
    "other-version": lambda: Forged(header=Header(version=6)),
}


@pytest.mark.parametrize(
    "forged",
    [
        Forged(),
        Forged(header=V5),
        Forged(header=V5, report=TD15),
        Forged(trailing=b""),
    ],
    ids=["v4", "v5-td10", "v5-td15", "v4-exact"],
)
def test_dcap_qvl_accepts_an_honest_simulated_guest(forged):
    verified = forged.verdict()
    assert (verified.status, verified.advisory_ids) == ("UpToDate", [])


@pytest.mark.parametrize(("forge", "status"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_dcap_qvl_alone_accepts(forge, status):
    assert forge().verdict().status == status


@pytest.mark.parametrize("forge", REJECTED.values(), ids=REJECTED.keys())
def test_dcap_qvl_alone_rejects(forge):
    with pytest.raises(ValueError, match=r"."):
        forge().verdict()


def test_a_module_that_is_behind_makes_the_whole_platform_out_of_date():
    behind = tcb_info(modules=(Module(levels=(IsvLevel(svn=7, status="OutOfDate"),)),))
    assert Forged(state=behind).verdict().status == "OutOfDate"


def test_advisories_of_the_matched_level_are_reported():
    level = PlatformLevel(status="OutOfDate", advisories=("INTEL-SA-99999",))
    assert Forged(state=tcb_info(levels=(level,))).verdict().advisory_ids == ["INTEL-SA-99999"]


def test_a_signature_over_other_bytes_is_rejected():
    intel = mock_intel()
    quote = bytearray(intel.quote(LAUNCH))
    quote[600] ^= 1
    collateral = dcap_qvl.QuoteCollateralV3.from_json(intel.collateral().decode())
    with pytest.raises(ValueError, match=r"[Ss]ignature"):
        dcap_qvl.verify_with_root_ca(bytes(quote), collateral, intel.root_der, int(NOW.timestamp()))
