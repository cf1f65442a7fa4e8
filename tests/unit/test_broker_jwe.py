"""The JWE opens with two other libraries and with the way the Rust client does it."""

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import ECKey
from jwcrypto import jwe as jwcrypto_jwe
from jwcrypto import jwk

from attestation.broker.jwe import new_ephemeral, open_jwe, seal_jwe
from attestation.broker.protocol import EcKey, RsaKey, tee_pubkey
from attestation.codec import b64url, parse_json
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAuthentic, Refusal

PAYLOAD = b'{"dek":"..."}'
CEK, IV = bytes(range(32)), bytes(range(12))
CURVES = [ec.SECP256R1(), ec.SECP521R1()]


def seal(key, *, payload=PAYLOAD, cek=CEK, iv=IV):
    to = EcKey.model_validate(tee_pubkey(key.public_key()))
    return seal_jwe(
        Confidential(payload), to, ephemeral=new_ephemeral(to), cek=Confidential(cek), iv=iv
    )


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def unb64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_two_other_libraries_open_it(curve):
    key = ec.generate_private_key(curve)
    sealed = seal(key)
    theirs = jwcrypto_jwe.JWE()
    theirs.deserialize(sealed.decode(), jwk.JWK.from_pem(pem(key)))
    assert theirs.payload == PAYLOAD
    opened = joserfc_jwe.decrypt_json(json.loads(sealed), ECKey.import_key(pem(key)))
    assert opened.plaintext == PAYLOAD


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_the_rust_client_opens_it(curve):
    """It parses the header, writes it again (alg, enc, then a sorted map), and uses that as AAD."""
    key = ec.generate_private_key(curve)
    message = json.loads(seal(key))
    assert set(message) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    header = json.loads(unb64url(message["protected"]))
    others = {name: header[name] for name in sorted(header) if name not in ("alg", "enc")}
    rewritten = {"alg": header["alg"], "enc": header["enc"]}
    rewritten |= {n: dict(sorted(v.items())) for n, v in others.items()}
    aad = b64url(json.dumps(rewritten, separators=(",", ":")).encode())
    assert aad == message["protected"]
    epk = header["epk"]
    x, y = (int.from_bytes(unb64url(epk[name]), "big") for name in "xy")
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicNumbers(x, y, curve).public_key())
    name = b"ECDH-ES+A256KW"
    info = len(name).to_bytes(4, "big") + name + bytes(8) + (256).to_bytes(4, "big")
    wrapping = hashlib.sha256((1).to_bytes(4, "big") + shared + info).digest()
    cek = aes_key_unwrap(wrapping, unb64url(message["encrypted_key"]))
    sealed = unb64url(message["ciphertext"]) + unb64url(message["tag"])
    assert AESGCM(cek).decrypt(unb64url(message["iv"]), sealed, aad.encode()) == PAYLOAD


def test_an_rsa_guest_opens_it():
    key = rsa.generate_private_key(65537, 2048)
    modulus = b64url(key.public_key().public_numbers().n.to_bytes(256, "big"))
    to = RsaKey(kty="RSA", alg="RSA-OAEP-256", n=modulus, e="AQAB")
    sealed = seal_jwe(
        Confidential(PAYLOAD), to, ephemeral=new_ephemeral(to), cek=Confidential(CEK), iv=IV
    )
    theirs = jwcrypto_jwe.JWE()
    theirs.deserialize(sealed.decode(), jwk.JWK.from_pem(pem(key)))
    assert theirs.payload == PAYLOAD


@settings(max_examples=20)
@given(st.binary(max_size=200))
def test_what_was_sealed_opens(payload):
    key = ec.generate_private_key(ec.SECP256R1())
    assert open_jwe(seal(key, payload=payload), key).reveal() == payload


def test_another_boot_s_key_does_not_open_it():
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    with pytest.raises(NotAuthentic) as refused:
        open_jwe(seal(key), other)
    assert refused.value.code == "jwe-not-for-us"


KEY = ec.generate_private_key(ec.SECP256R1())
SEALED = seal(KEY)


@settings(max_examples=200)
@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_changed_byte_opens(place, flip):
    damaged = bytearray(SEALED)
    damaged[place] ^= flip
    with pytest.raises(Refusal):
        open_jwe(bytes(damaged), KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "ECDH-ES"},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
        {"apu": "AA"},
        {"epk": None},
        {"crit": ["x"]},
    ],
)
def test_a_header_of_another_kind_is_refused(change):
    message = parse_json(SEALED)
    header = json.loads(unb64url(message["protected"])) | change
    message["protected"] = b64url(json.dumps(header).encode())
    with pytest.raises(Malformed):
        open_jwe(json.dumps(message).encode(), KEY)


def test_key_and_iv_have_their_sizes():
    for wrong in ({"cek": bytes(16)}, {"iv": bytes(16)}):
        with pytest.raises(ValueError, match="bytes"):
            seal(KEY, **wrong)
