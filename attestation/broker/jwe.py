"""Seal a resource to a guest's key as the flattened JWE that KBS clients open, and open one."""

from __future__ import annotations

import json
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

from attestation.broker.protocol import (
    EcKey,
    RsaKey,
    Short,
    Text,
    ec_public_key,
    tee_pubkey,
)
from attestation.codec import Document, b64url, parse_document, unb64url
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAuthentic

_ECDH = "ECDH-ES+A256KW"
_MAX_JWE = 256 * 1024


class _Flattened(Document):
    """RFC 7516 section 7.2.2, without the members KBS does not use."""

    protected: Short
    encrypted_key: Short
    iv: Short
    ciphertext: Text
    tag: Short


class _Epk(Document):
    crv: Literal["P-256", "P-521"]
    kty: Literal["EC"]
    x: Short
    y: Short


class _Protected(Document):
    alg: Literal["ECDH-ES+A256KW"]
    enc: Literal["A256GCM"]
    epk: _Epk


def new_ephemeral(recipient: EcKey | RsaKey) -> ec.EllipticCurvePrivateKey:
    """Generate the key pair of one message, on the recipient's curve (P-256 where it has none)."""
    curve = recipient.public_key().curve if isinstance(recipient, EcKey) else ec.SECP256R1()
    return ec.generate_private_key(curve)


def seal_jwe(
    payload: Confidential[bytes],
    recipient: EcKey | RsaKey,
    *,
    ephemeral: ec.EllipticCurvePrivateKey,
    cek: Confidential[bytes],
    iv: bytes,
) -> bytes:
    """Return flattened JWE JSON: A256GCM under `cek` (32 bytes), `iv` (12 bytes).

    Two rules beyond RFC 7516, because the Rust client recomputes the AAD from the header it parsed:
    `epk` is inside `protected`, and the header is compact with members alg, enc, epk{crv,kty,x,y}.
    """
    key = cek.reveal()
    if len(key) != 32 or len(iv) != 12:
        raise ValueError(f"a key of {len(key)} bytes and an iv of {len(iv)} bytes")
    if isinstance(recipient, EcKey):
        header, encrypted_key = _to_ec(recipient.public_key(), key, ephemeral=ephemeral)
    else:
        header, encrypted_key = _to_rsa(recipient.public_key(), key)
    protected = b64url(json.dumps(header, separators=(",", ":")).encode())
    sealed = AESGCM(key).encrypt(iv, payload.reveal(), protected.encode())
    message = {
        "protected": protected,
        "encrypted_key": b64url(encrypted_key),
        "iv": b64url(iv),
        "ciphertext": b64url(sealed[:-16]),
        "tag": b64url(sealed[-16:]),
    }
    return json.dumps(message, separators=(",", ":")).encode()


def open_jwe(data: bytes, key: ec.EllipticCurvePrivateKey) -> Confidential[bytes]:
    """Open a JWE sealed to `key`; another recipient's or a changed one is `NotAuthentic`."""
    message = parse_document(_Flattened, data, limit=_MAX_JWE)
    header = parse_document(_Protected, unb64url(message.protected, what="protected"))
    if header.epk.crv != tee_pubkey(key.public_key())["crv"]:
        raise Malformed("jwe", "the ephemeral key is on another curve than the recipient's")
    peer = ec_public_key(header.epk.crv, header.epk.x, header.epk.y)
    wrapped = unb64url(message.encrypted_key, what="encrypted_key")
    iv = unb64url(message.iv, what="iv")
    tag = unb64url(message.tag, what="tag")
    if len(wrapped) != 40 or len(iv) != 12 or len(tag) != 16:
        raise Malformed("jwe", f"parts of {len(wrapped)}, {len(iv)} and {len(tag)} bytes")
    ciphertext = unb64url(message.ciphertext, what="ciphertext")
    try:
        cek = aes_key_unwrap(_wrapping_key(key, peer), wrapped)
        payload = AESGCM(cek).decrypt(iv, ciphertext + tag, message.protected.encode())
    except (InvalidUnwrap, InvalidTag):
        raise NotAuthentic("jwe-not-for-us", f"a message of {len(data)} bytes") from None
    return Confidential(payload)


def _to_ec(
    recipient: ec.EllipticCurvePublicKey, cek: bytes, *, ephemeral: ec.EllipticCurvePrivateKey
) -> tuple[dict[str, object], bytes]:
    jwk = tee_pubkey(ephemeral.public_key())
    epk = {"crv": jwk["crv"], "kty": "EC", "x": jwk["x"], "y": jwk["y"]}
    wrapped = aes_key_wrap(_wrapping_key(ephemeral, recipient), cek)
    return {"alg": _ECDH, "enc": "A256GCM", "epk": epk}, wrapped


def _to_rsa(recipient: rsa.RSAPublicKey, cek: bytes) -> tuple[dict[str, object], bytes]:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return {"alg": "RSA-OAEP-256", "enc": "A256GCM"}, recipient.encrypt(cek, oaep)


def _wrapping_key(ours: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey) -> bytes:
    # RFC 7518 section 4.6.2: AlgorithmID, empty PartyUInfo and PartyVInfo, SuppPubInfo = 256 bits.
    name = _ECDH.encode()
    info = len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (256).to_bytes(4, "big")
    shared = ours.exchange(ec.ECDH(), peer)
    return ConcatKDFHash(hashes.SHA256(), 32, info).derive(shared)
