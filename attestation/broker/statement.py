"""A native answer, the request it must answer and the pinned key in; payload and statement out."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from attestation.binding import report_data
from attestation.broker.native import (
    Recipient,
    ReleaseAnswer,
    ReleaseRequest,
    Statement,
    recipient_digest,
)
from attestation.broker.protocol import MAX_RESOURCE, ModelKey
from attestation.codec import parse_document, parse_json, unb64, unb64url
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic
from attestation.types import Digest

_MAX_STATEMENT = 16 * 1024


@dataclass(frozen=True, slots=True)
class Released:
    """What a broker released to this boot, and what it signed about that."""

    payload: Confidential[bytes]
    statement: Statement
    digest: Digest
    """SHA-256 of the signed statement as received: what a guest keeps of it."""

    def model_key(self) -> Confidential[ModelKey]:
        """Return the payload as a model's key, or refuse one that the statement does not state."""
        try:
            key = parse_document(ModelKey, self.payload.reveal(), limit=MAX_RESOURCE)
        except Malformed:
            raise Malformed("broker-protocol", "the payload is no model key") from None
        said = self.statement
        if (said.manifest, said.minimum_version) != (key.manifest, key.minimum_version):
            raise NotAuthentic("statement-mismatch", "it states another manifest or version")
        return Confidential(key)


def statement_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 public key that signs a broker's statements, or raise `ConfigError`."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ConfigError("statement-key", "broker.statement_key is not a P-256 public key")
    return key


def open_release(
    answer: ReleaseAnswer,
    request: ReleaseRequest,
    *,
    recipient: Recipient,
    key: ec.EllipticCurvePublicKey,
) -> Released:
    """Return what `answer` holds if `key` signed that it answers this very `request`.

    Anybody can seal to a public key, so the sealed bytes alone say nothing about who made them: the
    signature does, and it covers their digest. Nonce and key of this boot are in REPORT_DATA, whose
    digest the statement repeats; so the answer to another request, boot or guest is
    `NotAuthentic` `statement-mismatch`. No clock is asked: the nonce is what makes it fresh.
    """
    statement = _signed(answer.statement, key)
    sealed = unb64(answer.sealed, what="sealed")
    bound = report_data(request.binding, event_log=b"", gpu_evidence=b"")
    expected = {
        "resource": request.resource,
        "recipient": str(recipient_digest(request.recipient)),
        "evidence": str(Digest.sha256(bound)),
        "sealed": str(Digest.sha256(sealed)),
    }
    for name, value in expected.items():
        if getattr(statement, name) != value:
            raise NotAuthentic("statement-mismatch", f"it states another {name}")
    payload = recipient.open(sealed, request)
    return Released(payload, statement, Digest.sha256(answer.statement.encode()))


def _signed(token: str, key: ec.EllipticCurvePublicKey) -> Statement:
    """Verify a compact JWS (RFC 7515 section 5.2); only ES256, only by `key`, whatever it names."""
    header, *rest = token.split(".")
    if len(token) > _MAX_STATEMENT or len(rest) != 2:
        raise Malformed("broker-protocol", f"a statement of {len(token)} characters")
    try:
        claims, signature = (unb64url(part, what="statement") for part in rest)
        protected = parse_json(unb64url(header, what="statement"), limit=_MAX_STATEMENT)
    except (Malformed, binascii.Error):
        raise Malformed("broker-protocol", f"a statement of {len(token)} characters") from None
    unlike = not isinstance(protected, dict) or protected.get("alg") != "ES256"
    if unlike or "crit" in protected or len(signature) != 64:
        raise NotAuthentic("statement-signature", "the statement is not signed with ES256")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    signed = f"{header}.{rest[0]}".encode()
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise NotAuthentic(
            "statement-signature", "another key than the pinned one signed"
        ) from None
    try:
        return parse_document(Statement, claims, limit=_MAX_STATEMENT)
    except Malformed:
        raise Malformed("broker-protocol", f"no Statement in {len(claims)} bytes") from None
