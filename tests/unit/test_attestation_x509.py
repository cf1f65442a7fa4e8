import json
from datetime import timedelta

import pytest

from attestation.errors import Malformed, Undecidable
from attestation.simulator.pki import Role
from attestation.x509 import RevocationList, common_name, parse_certificate, parse_pem_chain
from tests.simulated_tdx import NOW, mock_intel

INTEL = mock_intel()
CHAIN = (INTEL.platform_ca.pem + INTEL.root.pem).encode()


def refused(pem):
    with pytest.raises(Malformed) as refusal:
        parse_pem_chain(pem, what="chain", longest=2)
    assert refusal.value.code == "certificate-malformed"


def test_a_canonical_chain_is_parsed_leaf_first():
    leaf, root = parse_pem_chain(CHAIN, what="chain", longest=2)
    assert root == INTEL.root_der
    name = common_name(parse_certificate(leaf, what="leaf").subject)
    assert name == "Simulated Intel " + Role.PLATFORM_CA.value


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        INTEL.root.pem.encode(),
        CHAIN + INTEL.root.pem.encode(),
        b"\n" + CHAIN,
        CHAIN + b"\n",
        CHAIN + b"\0",
        CHAIN.rstrip(b"\n"),
        CHAIN.replace(b"\n", b"\r\n"),
        CHAIN.replace(b"-----\n-----", b"-----\n\n-----"),
        CHAIN.replace(b"\nMII", b"\n MII", 1),
        CHAIN.replace(b"CERTIFICATE-----\nMII", b"CERTIFICATE-----\nM\nII", 1),
        CHAIN.replace(b"BEGIN CERTIFICATE", b"BEGIN CERTIFICATES", 1),
        CHAIN.replace(b"M", b"*", 3),
    ],
)
def test_other_pem_than_the_canonical_is_refused(pem):
    refused(pem)


def test_unused_bits_of_base64_are_refused():
    begin, end = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"
    assert parse_pem_chain(f"{begin}MQ=={end}".encode() * 2, what="chain", longest=2) == (b"1",) * 2
    refused(f"{begin}MR=={end}".encode() * 2)


def crl():
    return bytes.fromhex(json.loads(INTEL.collateral())["root_ca_crl"])


def test_a_revocation_list_states_its_dates():
    parsed = RevocationList.parse(crl(), what="CRL", now=NOW)
    assert parsed.this_update < NOW < parsed.next_update


@pytest.mark.parametrize(
    ("moved", "code"), [(timedelta(days=-2), "crl-future"), (timedelta(days=40), "crl-expired")]
)
def test_a_revocation_list_of_another_day_decides_nothing(moved, code):
    with pytest.raises(Undecidable) as refusal:
        RevocationList.parse(crl(), what="CRL", now=NOW + moved)
    assert refusal.value.code == code


@pytest.mark.parametrize("der", [b"", b"0", INTEL.root_der])
def test_what_is_no_revocation_list_is_refused(der):
    with pytest.raises(Malformed) as refusal:
        RevocationList.parse(der, what="CRL", now=NOW)
    assert refusal.value.code == "crl-malformed"


def test_bytes_behind_a_revocation_list_are_refused():
    with pytest.raises(Malformed):
        RevocationList.parse(crl() + b"\0", what="CRL", now=NOW)


@pytest.mark.parametrize("der", [b"", b"0", INTEL.root_der + b"\0", INTEL.root_der[:-1]])
def test_what_is_no_certificate_is_refused(der):
    with pytest.raises(Malformed) as refusal:
        parse_certificate(der, what="root")
    assert refusal.value.code == "certificate-malformed"
