"""The native key release: messages, the HPKE X-Wing seal and the signed statement about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from pydantic import AwareDatetime, Field, StringConstraints

from attestation.binding import KbsBinding
from attestation.broker.keyfile import ResourcePath
from attestation.broker.protocol import MAX_ATTEST, Text
from attestation.codec import (
    Document,
    b64,
    b64url,
    length_prefixed,
    parse_document,
    unb64,
    unb64url,
)
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAuthentic
from attestation.evidence import Evidence
from attestation.keyset import DigestText, Name
from attestation.types import Digest

MAX_CHALLENGE = 256
"""Largest body of `POST /v1/keys/challenge`, in bytes."""

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
"""X-Wing (0x647a), HKDF-SHA256, AES-256-GCM (draft-ietf-hpke-pq)."""
_MLKEM, _X25519 = 1184, 32

Nonce = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]


class ChallengeRequest(Document):
    """`POST /v1/keys/challenge`: a guest wants a nonce."""

    version: Literal[1]


class NativeChallenge(Document):
    """The nonce evidence must bind, and until when it is good."""

    version: Literal[1]
    nonce: Nonce
    expires: AwareDatetime


class XWingKey(Document):
    """The guest's key of this boot; REPORT_DATA commits to it as KBS runtime data does."""

    kty: Literal["AKP"]
    alg: Literal["X-Wing"]
    pub: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,2048}$")]
    """base64url of ML-KEM-768 (1184 bytes) ‖ X25519 (32 bytes) public keys."""

    def public_key(self) -> MLKEM768X25519PublicKey:
        """Return the key, or refuse bytes that are none."""
        raw = unb64url(self.pub, what="recipient.pub")
        if len(raw) != _MLKEM + _X25519:
            raise Malformed("tee-pubkey", f"an X-Wing key of {len(raw)} bytes")
        try:
            lattice = mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM])
        except ValueError:
            raise Malformed("tee-pubkey", "the bytes are no ML-KEM-768 key") from None
        return MLKEM768X25519PublicKey(
            lattice, x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM:])
        )


class NativeEvidence(Document):
    """Quote, event log and GPU evidence, as the guest collected them."""

    quote: Text
    """Standard base64."""
    event_log: Text
    """Standard base64; empty when there is none."""
    gpu: Text
    """The canonical JSON of the GPU evidence set; empty when the guest has no GPU."""


class ReleaseRequest(Document):
    """`POST /v1/keys/release`: one resource, for one key, with evidence for one nonce."""

    version: Literal[1]
    resource: ResourcePath
    nonce: Nonce
    recipient: XWingKey
    evidence: NativeEvidence

    @classmethod
    def parse(cls, data: bytes) -> ReleaseRequest:
        """Parse the body, the guest's key included; nothing in it is believed yet."""
        request = parse_document(cls, data, limit=MAX_ATTEST)
        request.recipient.public_key()
        return request

    @property
    def binding(self) -> KbsBinding:
        """What REPORT_DATA must commit to: the construction of KBS 0.4.0, with this kind of key.

        The KBS façade takes no key of type AKP, so evidence of one protocol is none in the other.
        """
        return KbsBinding(self.nonce, self.recipient.model_dump(), self.evidence.gpu)

    def opaque(self) -> Evidence:
        """Return the evidence, opaque until it is authenticated."""
        quote = unb64(self.evidence.quote, what="quote")
        log = unb64(self.evidence.event_log, what="event_log")
        return Evidence(quote, log, b"", self.binding)

    def sealing_info(self) -> bytes:
        """HPKE's `info`: the sealed key opens as the answer to this very request only."""
        parts = length_prefixed(
            self.nonce.encode(), self.resource.encode(), self.recipient.pub.encode()
        )
        return b"tacit/v1/release" + parts


class ReleaseAnswer(Document):
    """The sealed payload and the broker's signed statement about this release."""

    version: Literal[1]
    sealed: Text
    """Standard base64 of HPKE's enc ‖ ciphertext."""
    statement: Text
    """A JWS by the key of `/.well-known/jwks.json`; its claims are a `Statement`."""


class Statement(Document):
    """Who was released what, why, and where the release log says so."""

    iss: Literal["tacit-broker"]
    iat: int
    resource: ResourcePath
    key: DigestText
    """Names the version of the key, whichever KEK wraps it."""
    manifest: DigestText | None
    minimum_version: Annotated[int, Field(ge=1)] | None
    tenant: Name
    policy: DigestText
    rules: DigestText
    evidence: DigestText
    guest: DigestText
    recipient: DigestText
    sealed: DigestText
    simulated: bool
    log_index: Annotated[int, Field(ge=0)]
    log_head: DigestText
    """The head of the release log with this release in it; keep it, and no entry before it can
    be changed or dropped unseen (`tacit releases --since`)."""


def recipient_digest(key: XWingKey) -> Digest:
    """Return SHA-256 of the public key's bytes, which statement and log name it by."""
    return Digest("sha256", hashlib.sha256(unb64url(key.pub, what="recipient.pub")).digest())


def seal_to(request: ReleaseRequest, payload: Confidential[bytes]) -> bytes:
    """Return enc ‖ ciphertext of `payload` for the key in `request`."""
    key = request.recipient.public_key()
    sealed: bytes = _SUITE.encrypt(payload.reveal(), key, request.sealing_info())
    return sealed


@dataclass(frozen=True, slots=True)
class Recipient:
    """A guest's X-Wing key pair of one boot."""

    lattice: mlkem.MLKEM768PrivateKey
    curve: x25519.X25519PrivateKey

    @classmethod
    def generate(cls) -> Recipient:
        """Make a new pair."""
        return cls(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())

    @property
    def public(self) -> XWingKey:
        """The public half, as the evidence binds it."""
        halves = self.lattice.public_key(), self.curve.public_key()
        raw = b"".join(half.public_bytes_raw() for half in halves)
        return XWingKey(kty="AKP", alg="X-Wing", pub=b64url(raw))

    def request(
        self, resource: str, evidence: Evidence, *, nonce: str, gpu: str = ""
    ) -> ReleaseRequest:
        """Put evidence that binds `nonce` and this key into a request."""
        return ReleaseRequest(
            version=1,
            resource=resource,
            nonce=nonce,
            recipient=self.public,
            evidence=NativeEvidence(
                quote=b64(evidence.quote), event_log=b64(evidence.event_log), gpu=gpu
            ),
        )

    def open(self, sealed: bytes, request: ReleaseRequest) -> Confidential[bytes]:
        """Open what was sealed for `request`, or raise `NotAuthentic` `jwe-not-for-us`."""
        key = MLKEM768X25519PrivateKey(self.lattice, self.curve)
        try:
            return Confidential(_SUITE.decrypt(sealed, key, request.sealing_info()))
        except InvalidTag:
            raise NotAuthentic("jwe-not-for-us", f"{len(sealed)} sealed bytes") from None
