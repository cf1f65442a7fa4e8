"""The text of a policy, its number and its owner's key in; one signed file out, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from attestation import dsse
from attestation.codec import MAX_JSON, Document, canonical_json, parse_document
from attestation.errors import ConfigError, Refusal

PAYLOAD_TYPE = "application/vnd.tacit.policy+json"

Number = Annotated[int, Field(ge=1, le=2**53 - 1)]


class _Statement(Document):
    """What is signed: the policy as its owner wrote it, and which of their policies it is."""

    version: Literal[1]
    number: Number
    policy: str


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed a policy, and its number, which grows with every one they sign."""

    key_id: str
    number: int


def sign_policy(text: bytes, *, number: int, signer: Ed25519PrivateKey) -> bytes:
    """Return the DSSE envelope of the policy `text`; load it first, a signature judges nothing."""
    statement = _Statement(version=1, number=number, policy=text.decode("utf-8"))
    payload = canonical_json(statement.model_dump(mode="json"))
    return dsse.sign(payload, signer=signer, payload_type=PAYLOAD_TYPE)


def looks_signed(data: bytes) -> bool:
    """Say whether `data` begins as an envelope does; no policy is written as a JSON object."""
    return data[:1] == b"{"


def open_policy(
    data: bytes, *, signer: Ed25519PublicKey, name: str, minimum: int = 1
) -> tuple[bytes, Signature]:
    """Return the text that `signer` signed in the file `name`, and its signature.

    Raises `ConfigError`: `policy-unsigned` for a bare policy, `policy-signature` where somebody
    else signed or the file was altered, `policy-rollback` below number `minimum`.
    """
    if not looks_signed(data):
        raise ConfigError("policy-unsigned", f"{name} is not signed")
    try:
        payload = dsse.verify(data, signer=signer, payload_type=PAYLOAD_TYPE)
        statement = parse_document(_Statement, payload, limit=MAX_JSON)
        if canonical_json(statement.model_dump(mode="json")) != payload:
            raise ConfigError("policy-signature", f"{name} holds a statement of another spelling")
    except Refusal:
        wanted = dsse.key_id(signer)
        raise ConfigError("policy-signature", f"{name} is not what key {wanted} signed") from None
    if statement.number < minimum:
        raise ConfigError(
            "policy-rollback", f"{name} has number {statement.number}, less than {minimum}"
        )
    return statement.policy.encode(), Signature(dsse.key_id(signer), statement.number)
