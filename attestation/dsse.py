"""DSSE v1.0.2 envelopes: a payload and one Ed25519 signature by a key the reader already has."""

from __future__ import annotations

import hashlib
from typing import Annotated

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from attestation.codec import Document, b64, canonical_json, parse_document, unb64
from attestation.errors import ConfigError, Malformed, NotAuthentic

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""Media type of in-toto statements, what a manifest is."""


class _Signature(Document):
    keyid: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    sig: str


class _Envelope(Document):
    payload: str
    payloadType: str  # noqa: N815 - DSSE's spelling
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=1)]


def pae(payload: bytes, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return DSSE's pre-authentication encoding, the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the 32 raw bytes of `key`, as hex; a hint, never what is trusted."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def public_key(pem: bytes, *, name: str) -> Ed25519PublicKey:
    """Read the PEM of an operator's trusted signer, or raise `ConfigError` ("signing-key")."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("signing-key", f"{name} is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("signing-key", f"{name} is not an Ed25519 key")
    return key


def private_key(pem: bytes, *, name: str) -> Ed25519PrivateKey:
    """Read the unencrypted PKCS #8 PEM of a signer, or raise `ConfigError` ("signing-key")."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("signing-key", f"{name} is not an open private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("signing-key", f"{name} is not an Ed25519 key")
    return key


def sign(payload: bytes, *, signer: Ed25519PrivateKey, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the canonical JSON envelope of `payload` with one signature."""
    signature = signer.sign(pae(payload, payload_type=payload_type))
    envelope = {
        "payload": b64(payload),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(signer.public_key()), "sig": b64(signature)}],
    }
    return canonical_json(envelope)


def verify(envelope: bytes, *, signer: Ed25519PublicKey, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the payload that `signer` signed.

    Stricter than DSSE asks: one signature, by the named key, in the one canonical spelling, so
    that no byte of an envelope can change unnoticed. Raises `Malformed` ("dsse-malformed",
    "json-malformed", "too-large", "field-invalid") or `NotAuthentic` ("manifest-signer").
    """
    parsed = parse_document(_Envelope, envelope)
    if canonical_json(parsed.model_dump(mode="json")) != envelope:
        raise Malformed("dsse-malformed", f"envelope of {len(envelope)} bytes is not canonical")
    if parsed.payloadType != payload_type:  # a signature under one role counts for no other
        raise Malformed("dsse-malformed", "the envelope holds another kind of payload")
    payload = unb64(parsed.payload, what="payload")
    (only,) = parsed.signatures
    if only.keyid != key_id(signer):
        raise NotAuthentic("manifest-signer", f"signed by key {only.keyid}, not {key_id(signer)}")
    try:
        signer.verify(unb64(only.sig, what="sig"), pae(payload, payload_type=payload_type))
    except InvalidSignature:
        raise NotAuthentic("manifest-signer", f"{key_id(signer)} did not sign this") from None
    return payload
