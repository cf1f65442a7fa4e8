"""Collateral files, a key and a day in; one file for places without a network out, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, Field, StringConstraints

from attestation import dsse
from attestation.codec import (
    Document,
    b64url,
    canonical_json,
    parse_document,
    unb64url,
)
from attestation.errors import NotAuthentic, Undecidable
from attestation.keyset import DigestText
from attestation.tdx.collateral import MAX_COLLATERAL
from attestation.tdx.quote import collateral_key
from attestation.types import Digest, Endorsements

PAYLOAD_TYPE = "application/vnd.tacit.collateral-bundle+json"
MAX_BUNDLE = 64 * 1024 * 1024
NVIDIA = "nvidia.json"
"""Manifests and OCSP responses for guests with GPUs."""

_NAME = r"^([0-9a-f]{12}-(platform|processor)|nvidia)\.json$"
FileName = Annotated[str, StringConstraints(pattern=_NAME)]


class _Statement(Document):
    """What is signed: which files belong together, and until when anybody may use them."""

    version: Literal[1]
    created_at: AwareDatetime
    expires_at: AwareDatetime
    files: Annotated[dict[FileName, DigestText], Field(min_length=1)]


class _File(Document):
    version: Literal[1]
    statement: str
    """Base64url of the DSSE envelope."""
    files: dict[FileName, str]


def is_bundle_file(name: str) -> bool:
    """Say whether a directory's file of this name belongs into a bundle."""
    return re.fullmatch(_NAME, name) is not None


def build_bundle(
    files: Mapping[str, bytes],
    *,
    signer: Ed25519PrivateKey,
    created_at: datetime,
    expires_at: datetime,
) -> bytes:
    """Return the bundle of `files` by name; nobody who keeps to it uses it after `expires_at`."""
    statement = _Statement(
        version=1,
        created_at=created_at.replace(microsecond=0),
        expires_at=expires_at.replace(microsecond=0),
        files={name: str(Digest.sha256(data)) for name, data in files.items()},
    )
    payload = canonical_json(statement.model_dump(mode="json"))
    envelope = dsse.sign(payload, signer=signer, payload_type=PAYLOAD_TYPE)
    return canonical_json(
        {
            "version": 1,
            "statement": b64url(envelope),
            "files": {name: b64url(data) for name, data in files.items()},
        }
    )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose signature, files and day have been checked; an `Endorser`."""

    files: Mapping[str, bytes]
    expires_at: datetime

    @classmethod
    def open(cls, data: bytes, *, signer: Ed25519PublicKey, now: datetime) -> Bundle:
        """Check what `signer` bundled, all of it, at `now`.

        Raises `Undecidable` `bundle-expired`, `NotAuthentic` `bundle-signature` where a file is
        not the listed one or somebody else signed, `Malformed` for another form.
        """
        file = parse_document(_File, data, limit=MAX_BUNDLE)
        envelope = unb64url(file.statement, what="statement")
        try:
            payload = dsse.verify(envelope, signer=signer, payload_type=PAYLOAD_TYPE)
        except NotAuthentic:
            wanted = dsse.key_id(signer)
            raise NotAuthentic("bundle-signature", f"key {wanted} did not sign this") from None
        statement = parse_document(_Statement, payload)
        if now >= statement.expires_at:
            day = f"{statement.expires_at:%Y-%m-%dT%H:%M:%SZ}"
            raise Undecidable("bundle-expired", f"the bundle ended {day}")
        files = {name: unb64url(text, what="file") for name, text in file.files.items()}
        if {name: str(Digest.sha256(held)) for name, held in files.items()} != statement.files:
            raise NotAuthentic("bundle-signature", "the files are not those the list names")
        return cls(files, statement.expires_at)

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return what the bundle holds for `quote`, or raise `Undecidable`."""
        name = f"{collateral_key(quote)}.json"
        if name not in self.files or len(self.files[name]) > MAX_COLLATERAL:
            raise Undecidable("endorsements-missing", f"the bundle has no {name}")
        return Endorsements(self.files[name], self.files.get(NVIDIA, b""))
