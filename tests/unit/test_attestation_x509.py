import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import Malformed
from attestation.simulator.pki import Role
from attestation.x509 import (
    Named,
    RevocationList,
    common_name,
    parse_certificate,
    parse_pem_chain,
)
from tests.shared_data import SHARED
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
    parsed = RevocationList.parse(crl(), what="CRL")
    assert parsed.this_update < NOW < parsed.next_update


@pytest.mark.parametrize("der", [b"", b"0", INTEL.root_der])
def test_what_is_no_revocation_list_is_refused(der):
    with pytest.raises(Malformed) as refusal:
        RevocationList.parse(der, what="CRL")
    assert refusal.value.code == "crl-malformed"


def test_bytes_behind_a_revocation_list_are_refused():
    with pytest.raises(Malformed):
        RevocationList.parse(crl() + b"\0", what="CRL")


@pytest.mark.parametrize("der", [b"", b"0", INTEL.root_der + b"\0", INTEL.root_der[:-1]])
def test_what_is_no_certificate_is_refused(der):
    with pytest.raises(Malformed) as refusal:
        parse_certificate(der, what="root")
    assert refusal.value.code == "certificate-malformed"


@pytest.mark.parametrize("der", [b"", b"0", INTEL.root_der + b"\0", INTEL.root_der[:-1]])
def test_a_name_is_read_from_one_whole_certificate(der):
    with pytest.raises(Malformed) as refusal:
        Named.parse(der, what="root")
    assert refusal.value.code == "certificate-malformed"


def genuine_certificates():
    """Return every certificate of the genuine vectors, and those of the simulator."""
    found = {INTEL.root_der, *parse_pem_chain(CHAIN, what="chain", longest=2)}
    for path in sorted((SHARED / "vectors").glob("*/*.json")):
        for pem in re.findall(
            r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", path.read_text(), re.DOTALL
        ):
            found.add(
                x509.load_pem_x509_certificate(pem.replace("\\n", "\n").encode()).public_bytes(
                    Encoding.DER
                )
            )
    for path in sorted((SHARED / "vectors").glob("*/*.pem")):
        found |= {
            c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(path.read_bytes())
        }
    return sorted(found)


@pytest.mark.parametrize("der", genuine_certificates(), ids=lambda _: "")
def test_names_and_ends_are_those_that_cryptography_reads(der):
    ours, theirs = Named.parse(der, what="certificate"), x509.load_der_x509_certificate(der)
    assert ours.common_name == common_name(theirs.subject)
    assert ours.not_after == theirs.not_valid_after_utc
    assert ours.subject == theirs.subject.public_bytes()
    assert ours.issuer == theirs.issuer.public_bytes()


@pytest.mark.parametrize("tag", [t for t in range(256) if t not in (0x0C, 0x13)])
def test_a_common_name_that_is_no_text_is_refused(tag):
    """Found by the next test: a tag nobody uses must not escape as a LookupError."""
    der = INTEL.root_der.replace(b"\x06\x03\x55\x04\x03\x0c", b"\x06\x03\x55\x04\x03%c" % tag)
    assert der != INTEL.root_der
    with pytest.raises(Malformed):
        Named.parse(der, what="certificate")


@given(st.integers(0, len(INTEL.root_der) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_read_as_cryptography_reads_it(at, bit):
    der = bytearray(INTEL.root_der)
    der[at] ^= 1 << bit
    try:
        ours = Named.parse(bytes(der), what="certificate")
    except Malformed:
        return
    try:
        theirs = x509.load_der_x509_certificate(bytes(der))
        name, until = common_name(theirs.subject), theirs.not_valid_after_utc
    except Exception:
        return  # webpki refuses what is no certificate before anyone reads its names
    assert (ours.common_name, ours.not_after) == (name, until)
