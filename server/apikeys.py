"""The API key file: keys and a pepper in, the next version of the file out.

A key is `sk-tacit-<id>-<secret>-<crc32>`. The file holds HMAC-SHA256 of each secret under a pepper
that only the key broker hands out, and one over the whole file with its serial number. So the
host, which stores it, can mint no key, change or drop no line, and mix no two versions. It can put
back a whole older version, which a running gateway refuses and a restarted one cannot know.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from attestation.codec import Document, b64url, canonical_json, length_prefixed, parse_document
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed
from server.access import Tenant

_KEY_LABEL = b"tacit/v1/api-key"
_FILE_LABEL = b"tacit/v1/api-key-file"
MIN_PEPPER = 32
"""Bytes; the pepper is a random key, not a password."""
MAX_LIFE = timedelta(days=1100)

KeyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8}$")]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@/-]{0,63}$")]
Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class KeyEntry(Document):
    """What the file knows of one key."""

    id: KeyId
    tenant: Tenant
    name: KeyName
    """What the operator calls it: where it is used, or by whom."""
    created: Moment
    expires: Moment
    tag: Mac
    """HMAC of the secret under the pepper."""

    @model_validator(mode="after")
    def _real_dates(self) -> KeyEntry:
        if moment(self.expires) <= moment(self.created):
            raise ValueError("expires is not after created")
        return self


class KeyFile(Document):
    """The key file. Revoking a key removes its entry; every change raises the serial number."""

    version: Literal[2]
    serial: Annotated[int, Field(ge=1, lt=2**53)]
    keys: Annotated[tuple[KeyEntry, ...], Field(max_length=10_000)]
    mac: Mac
    """HMAC of everything else under the pepper."""

    @model_validator(mode="after")
    def _unique(self) -> KeyFile:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have one id")
        return self

    def entry(self, key_id: str) -> KeyEntry:
        """Return the entry of `key_id` or raise `ConfigError` `api-key-unknown`."""
        for entry in self.keys:
            if entry.id == key_id:
                return entry
        raise ConfigError("api-key-unknown", f"none of {len(self.keys)} keys has this id")


@dataclass(frozen=True, slots=True)
class FreshKey:
    """Randomness of a key that is about to exist."""

    id: str
    secret: Confidential[bytes]

    def tag(self, pepper: Confidential[bytes]) -> str:
        """Return what the file keeps of the secret."""
        return key_tag(self.id, self._text.encode(), pepper).hex()

    def text(self) -> Confidential[str]:
        """Return what is handed to the tenant, once."""
        body = f"sk-tacit-{self.id}-{self._text}"
        return Confidential(f"{body}-{checksum(body.encode()).decode()}")

    @property
    def _text(self) -> str:
        if len(self.secret.reveal()) != 32:
            raise ValueError("an API key has 256 bits")
        return b64url(self.secret.reveal())


@dataclass(frozen=True, slots=True)
class KeyRing:
    """A key file whose MAC was checked, and the pepper to make the next one with."""

    file: KeyFile
    pepper: Confidential[bytes]

    @classmethod
    def empty(cls, pepper: Confidential[bytes]) -> KeyRing:
        """Return the first file, without a key; raises `ConfigError` for a short pepper."""
        _require_pepper(pepper)
        return cls(_sealed(1, (), pepper), pepper)

    @classmethod
    def load(cls, data: bytes, pepper: Confidential[bytes], *, name: str) -> KeyRing:
        """Parse a key file and check its MAC, or raise `ConfigError`."""
        _require_pepper(pepper)
        file = parse_key_file(data, name=name)
        expected = bytes.fromhex(_sealed(file.serial, file.keys, pepper).mac)
        if not hmac.compare_digest(bytes.fromhex(file.mac), expected):
            raise ConfigError("api-keys-forged", f"{name} was not written with this pepper")
        return cls(file, pepper)

    def create(
        self, fresh: FreshKey, *, tenant: str, name: str, now: datetime, life: timedelta
    ) -> KeyRing:
        """Add a key that ends after `life`, or raise `ConfigError` `api-key-invalid`."""
        if not timedelta(0) < life <= MAX_LIFE:
            raise ConfigError("api-key-invalid", f"a life of {life.days} days")
        if any(entry.id == fresh.id for entry in self.file.keys):
            raise ConfigError("api-key-invalid", "the id is taken")
        try:
            entry = KeyEntry(
                id=fresh.id,
                tenant=tenant,
                name=name,
                created=_text(now),
                expires=_text(now + life),
                tag=fresh.tag(self.pepper),
            )
        except ValueError:
            raise ConfigError("api-key-invalid", "tenant or name is not acceptable") from None
        return self._next((*self.file.keys, entry))

    def rotate(self, key_id: str, fresh: FreshKey, *, now: datetime, overlap: timedelta) -> KeyRing:
        """Add a key like `key_id` with as long a life, and end the old one after `overlap`."""
        old = self.file.entry(key_id)
        life = moment(old.expires) - moment(old.created)
        ring = self.create(fresh, tenant=old.tenant, name=old.name, now=now, life=life)
        ends = min(moment(old.expires), now + overlap)
        if ends <= moment(old.created):
            return ring.revoke(key_id)
        ended = old.model_copy(update={"expires": _text(ends)})
        return self._next(tuple(ended if e.id == key_id else e for e in ring.file.keys))

    def revoke(self, key_id: str) -> KeyRing:
        """Remove a key, or raise `ConfigError` `api-key-unknown`."""
        old = self.file.entry(key_id)
        return self._next(tuple(entry for entry in self.file.keys if entry is not old))

    def _next(self, keys: tuple[KeyEntry, ...]) -> KeyRing:
        if len(keys) > 10_000:
            raise ConfigError("api-key-invalid", "10000 keys are the most")
        return KeyRing(_sealed(self.file.serial + 1, keys, self.pepper), self.pepper)


def parse_key_file(data: bytes, *, name: str) -> KeyFile:
    """Parse a key file without checking its MAC, or raise `ConfigError`.

    It is JSON: a reading happens beside requests, and YAML of ten thousand keys takes seconds.
    """
    try:
        return parse_document(KeyFile, data)
    except Malformed as refusal:
        raise ConfigError("config-invalid", f"{name}: {refusal.why}") from None


Change = Callable[[KeyRing], KeyRing]


def public(entry: KeyEntry) -> dict[str, str]:
    """Return what whoever reads the file may know of a key."""
    return {name: value for name, value in entry.model_dump().items() if name != "tag"}


def key_tag(key_id: str, secret: bytes, pepper: Confidential[bytes]) -> bytes:
    """Return the HMAC of a secret, as its 43 characters, under the pepper."""
    parts = length_prefixed(key_id.encode(), secret)
    return hmac.digest(pepper.reveal(), _KEY_LABEL + parts, hashlib.sha256)


def checksum(body: bytes) -> bytes:
    """Return the eight digits that catch a mistyped key before any lookup."""
    return f"{zlib.crc32(body):08x}".encode()


def moment(text: str) -> datetime:
    """Read a time of the key file."""
    return datetime.fromisoformat(text)


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _sealed(serial: int, keys: tuple[KeyEntry, ...], pepper: Confidential[bytes]) -> KeyFile:
    said = canonical_json([serial, [entry.model_dump() for entry in keys]])
    mac = hmac.digest(pepper.reveal(), _FILE_LABEL + length_prefixed(said), hashlib.sha256)
    return KeyFile(version=2, serial=serial, keys=keys, mac=mac.hex())


def _require_pepper(pepper: Confidential[bytes]) -> None:
    if len(pepper.reveal()) < MIN_PEPPER:
        size = len(pepper.reveal())
        raise ConfigError("api-key-pepper", f"pepper of {size} bytes, at least {MIN_PEPPER}")
