"""DSSE envelopes: one payload, one signature, by a key the reader names."""

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import dsse
from attestation.codec import canonical_json
from attestation.errors import ConfigError, Malformed, NotAuthentic

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = SIGNER.public_key()


def envelope(**changes: object) -> bytes:
    return canonical_json(json.loads(dsse.sign(b"{}", signer=SIGNER)) | changes)


def test_the_encoding_is_the_one_of_the_specification() -> None:
    # The worked example of the DSSE protocol document.
    assert (
        dsse.pae(b"hello world", payload_type="http://example.com/HelloWorld")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signature_is_the_one_ed25519_makes() -> None:
    assert dsse.sign(b"{}", signer=SIGNER) == (
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":'
        b'"56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c","sig":"'
        b'dWG98CPWh3lAzt/mxzJ7Nc6Avgf2tjap4msM5gNmMV9Lpu+TWkZMk3lP/u6Su450zcqkLQw21MTZfwU07XgjCw=="}]}'
    )


def test_what_was_signed_comes_back() -> None:
    assert dsse.verify(dsse.sign(b"payload", signer=SIGNER), signer=PUBLIC) == b"payload"


def test_a_stranger_is_refused() -> None:
    with pytest.raises(NotAuthentic) as refusal:
        dsse.verify(dsse.sign(b"{}", signer=STRANGER), signer=PUBLIC)
    assert refusal.value.code == "manifest-signer"


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(Malformed):
        dsse.verify(envelope(payloadType="application/json"), signer=PUBLIC)


@pytest.mark.parametrize("signatures", [[], [{"sig": "AAAA"}], [{"keyid": "a", "sig": "AAAA"}]])
def test_anything_but_one_full_signature_is_refused(signatures: list[object]) -> None:
    with pytest.raises(Malformed):
        dsse.verify(envelope(signatures=signatures), signer=PUBLIC)


def test_no_byte_of_an_envelope_can_change() -> None:
    good = dsse.sign(b'{"a":1}', signer=SIGNER)
    for at in range(len(good)):
        for mask in (0x01, 0x20, 0x80):
            bad = good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]
            with pytest.raises((Malformed, NotAuthentic)):
                dsse.verify(bad, signer=PUBLIC)


def test_a_signers_key_is_ed25519_in_pem() -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = PUBLIC.public_bytes(serialization.Encoding.PEM, form)
    assert dsse.public_key(pem, name="k").public_bytes_raw() == PUBLIC.public_bytes_raw()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for wrong in (b"", b"-----BEGIN", other.public_bytes(serialization.Encoding.PEM, form)):
        with pytest.raises(ConfigError) as refusal:
            dsse.public_key(wrong, name="k")
        assert refusal.value.code == "signing-key"
