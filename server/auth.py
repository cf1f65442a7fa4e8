"""API keys: a key file and a pepper in, a `Caller` for an Authorization header out.

A key is `sk-tacit-<id>-<secret>-<crc32>`. The file holds HMAC-SHA256 under a pepper that only the
key broker hands out, over everything the entry says. So the host, which writes the file, can
neither mint a key nor move one to another tenant nor lengthen its life. It can put back an older
file, which revives a revoked key until that key expires.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Literal, Protocol

from pydantic import Field, StringConstraints, model_validator

from attestation.codec import Document, b64url, length_prefixed, parse_yaml
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from server.access import Tenant
from server.errors import Unauthenticated

_LABEL = b"tacit/v1/api-key"
_KEY = re.compile(rb"(sk-tacit-([a-z0-9]{8})-([A-Za-z0-9_-]{43}))-([0-9a-f]{8})", re.ASCII)
_SCHEME = b"bearer "
_NOBODY = bytes(32)
MIN_PEPPER = 32
"""Bytes; the pepper is a random key, not a password."""

KeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8}$")]
Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class KeyEntry(Document):
    """What the file knows of one key; `tag` covers every other field and the secret."""

    id: KeyId
    tenant: Tenant
    created: Moment
    expires: Moment
    tag: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _real_dates(self) -> KeyEntry:
        if moment(self.expires) <= moment(self.created):
            raise ValueError("expires is not after created")
        return self


class KeyFile(Document):
    """The key file. Revoking a key removes its entry."""

    version: Literal[1]
    keys: Annotated[tuple[KeyEntry, ...], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _unique(self) -> KeyFile:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have one id")
        return self


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as far as an API key tells."""

    tenant: str
    key_id: str


class Keys(Protocol):
    """What decides about an Authorization header."""

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller or raise `Unauthenticated`."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys of one reading of the file."""

    entries: Mapping[str, KeyEntry]
    pepper: Confidential[bytes]

    @classmethod
    def load(cls, data: bytes, pepper: Confidential[bytes]) -> ApiKeys:
        """Parse the key file or raise `ConfigError`."""
        _require_pepper(pepper)
        file = parse_yaml(KeyFile, data, name="api keys")
        return cls(MappingProxyType({entry.id: entry for entry in file.keys}), pepper)

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller of an `Authorization: Bearer …` header or raise `Unauthenticated`."""
        if not header:
            raise Unauthenticated("key-missing")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("key-missing")
        found = _KEY.fullmatch(header[len(_SCHEME) :].strip(b" "))
        if found is None or found[4] != _checksum(found[1]):
            raise Unauthenticated("key-malformed")
        entry = self.entries.get(found[2].decode())
        secret = Confidential(found[3])
        expected = _NOBODY if entry is None else bytes.fromhex(entry.tag)
        actual = _tag(entry or _ABSENT, secret, self.pepper)
        if not hmac.compare_digest(actual, expected) or entry is None:
            raise Unauthenticated("key-unknown")
        if now >= moment(entry.expires):
            raise Unauthenticated("key-expired")
        return Caller(entry.tenant, entry.id)


def mint(
    *,
    key_id: str,
    secret: Confidential[bytes],
    tenant: str,
    created: datetime,
    expires: datetime,
    pepper: Confidential[bytes],
) -> tuple[KeyEntry, Confidential[str]]:
    """Return a file entry and the key to hand to the tenant; `secret` is 32 random bytes.

    Raises `ConfigError` for a short pepper and pydantic's `ValidationError` for a bad name.
    """
    _require_pepper(pepper)
    if len(secret.reveal()) != 32:
        raise ValueError("an API key has 256 bits")
    text = b64url(secret.reveal())
    unsigned = KeyEntry(
        id=key_id,
        tenant=tenant,
        created=_text(created),
        expires=_text(expires),
        tag=_NOBODY.hex(),
    )
    tag = _tag(unsigned, Confidential(text.encode()), pepper)
    entry = unsigned.model_copy(update={"tag": tag.hex()})
    body = f"sk-tacit-{key_id}-{text}"
    return entry, Confidential(f"{body}-{_checksum(body.encode()).decode()}")


def moment(text: str) -> datetime:
    """Read a time of the key file."""
    return datetime.fromisoformat(text)


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _checksum(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x}".encode()


def _tag(entry: KeyEntry, secret: Confidential[bytes], pepper: Confidential[bytes]) -> bytes:
    said = (entry.id, entry.tenant, entry.created, entry.expires)
    parts = length_prefixed(*(part.encode() for part in said), secret.reveal())
    return hmac.digest(pepper.reveal(), _LABEL + parts, hashlib.sha256)


def _require_pepper(pepper: Confidential[bytes]) -> None:
    if len(pepper.reveal()) < MIN_PEPPER:
        size = len(pepper.reveal())
        raise ConfigError("api-key-pepper", f"pepper of {size} bytes, at least {MIN_PEPPER}")


# an unknown id costs the same work as a known one
_ABSENT = KeyEntry(
    id="absent00",
    tenant="absent",
    created="2026-01-01T00:00:00Z",
    expires="2026-01-02T00:00:00Z",
    tag=_NOBODY.hex(),
)
