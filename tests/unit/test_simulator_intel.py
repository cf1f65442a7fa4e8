"""The mock Intel: deterministic, honest by default, and never mistaken for the genuine one."""

import json
from dataclasses import replace
from datetime import timedelta

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from attestation.errors import Malformed
from attestation.simulator.guest import LAUNCH
from attestation.simulator.intel import MockIntel, Statements
from attestation.simulator.pki import Machine, Role
from attestation.simulator.statements import TcbInfo
from attestation.tdx.layout import V5, claimed_body, decode_report, encode_report
from attestation.tdx.quote import verify_quote
from tests.simulated_tdx import NOW, mock_intel


def test_the_same_keys_and_dates_give_the_same_bytes():
    intel = mock_intel()
    again = MockIntel.from_pem(intel.to_pem(), created=intel.created)
    assert again.root_der == intel.root_der
    assert again.collateral(NOW) == intel.collateral(NOW)
    assert again.quote(LAUNCH) == intel.quote(LAUNCH)


def test_two_hierarchies_share_nothing():
    assert MockIntel.generate(NOW).root_der != mock_intel().root_der


@pytest.mark.parametrize("role", Role)
def test_every_certificate_is_named_after_its_role_and_says_simulated(role):
    certificate = mock_intel().identity(role).certificate
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == f"Simulated Intel {role.value}"


def test_the_pck_certificate_states_the_machine():
    machine = Machine(pce_svn=200, smt=False, sgx_svns=tuple(range(16)))
    quote = mock_intel().on(machine).quote(LAUNCH)
    parsed = dcap_qvl.parse_quote(quote)
    assert bytes.fromhex(parsed.fmspc()) == machine.fmspc
    assert parsed.ca() == "platform"
    state = Statements(tcb_info=replace(TcbInfo(), levels=_accepting(machine)))
    claims = verify_quote(
        quote,
        mock_intel().collateral(NOW, state=state),
        root_der=mock_intel().root_der,
        now=NOW,
    )
    stated = claims.platform
    assert (stated.ppid, stated.instance_id) == (machine.ppid, machine.instance_id)
    assert (stated.pce_svn, stated.sgx_type) == (200, 1)
    assert (stated.dynamic, stated.cached_keys, stated.smt) == (True, True, False)


def test_statements_are_signed_exactly_as_they_are_sent():
    collateral = json.loads(mock_intel().collateral(NOW))
    chain = x509.load_pem_x509_certificates(collateral["tcb_info_issuer_chain"].encode())
    signature = bytes.fromhex(collateral["tcb_info_signature"])
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    key = chain[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(r, s)
    key.verify(der, collateral["tcb_info"].encode(), ec.ECDSA(SHA256()))


def test_an_amended_statement_is_signed_too():
    def fractional(document):
        return document | {"issueDate": document["issueDate"].replace("Z", ".250Z")}

    state = Statements(tcb_info=TcbInfo(amend=fractional))
    text = json.loads(mock_intel().collateral(NOW, state=state))["tcb_info"]
    assert json.loads(text)["issueDate"].endswith(".250Z")


def test_collateral_dated_later_is_still_under_the_same_root():
    later = NOW + timedelta(days=300)
    claims = verify_quote(
        mock_intel().quote(LAUNCH),
        mock_intel().collateral(later),
        root_der=mock_intel().root_der,
        now=later,
    )
    assert claims.collateral.tcb_info.issued == later - timedelta(days=1)


@pytest.mark.parametrize("svn2", [None, LAUNCH.tee_tcb_svn], ids=["td10", "td15"])
def test_a_report_survives_the_way_through_a_quote(svn2):
    report = replace(LAUNCH, tee_tcb_svn2=svn2, report_data=bytes(range(64)))
    assert decode_report(claimed_body(mock_intel().quote(report, header=V5))) == report


@pytest.mark.parametrize(
    "change",
    [{"mrtd": bytes(47)}, {"rtmrs": (bytes(48),) * 3 + (bytes(49),)}, {"report_data": bytes(65)}],
)
def test_a_report_is_never_padded_or_cut(change):
    with pytest.raises(Malformed) as refusal:
        encode_report(replace(LAUNCH, **change))
    assert refusal.value.code == "quote-malformed"


def test_a_td10_body_cannot_carry_a_service_td():
    with pytest.raises(Malformed):
        encode_report(replace(LAUNCH, mr_service_td=b"\x01" * 48))


@pytest.mark.parametrize("size", [0, 53, 631])
def test_a_cut_quote_has_no_body(size):
    with pytest.raises(Malformed) as refusal:
        claimed_body(mock_intel().quote(LAUNCH)[:size])
    assert refusal.value.code == "quote-malformed"


def _accepting(machine):
    level = TcbInfo().levels[0]
    return (replace(level, sgx_svns=machine.sgx_svns, pce_svn=machine.pce_svn),)
