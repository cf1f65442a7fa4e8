"""Authentication of clients: a key file and an Authorization header in, a `Caller` out."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from attestation.confidential import Confidential
from server.apikeys import Change, KeyEntry, KeyFile, KeyRing, checksum, key_tag, moment
from server.errors import Unauthenticated

_KEY = re.compile(rb"(sk-tacit-([a-z0-9]{8})-([A-Za-z0-9_-]{43}))-([0-9a-f]{8})", re.ASCII)
_SCHEME = b"bearer "
_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as far as an API key, a token or a certificate tells."""

    tenant: str
    key_id: str | None
    """Id of the API key, or how the settings list the certificate; None for a token."""


class Keys(Protocol):
    """What decides about an Authorization header."""

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller or raise `Unauthenticated`."""
        ...


class KeyStore(Keys, Protocol):
    """Keys that can be listed and changed while they are used; both raise `ConfigError`."""

    def listed(self) -> KeyFile:
        """Return the file as it is now."""
        ...

    def change(self, change: Change) -> KeyFile:
        """Write the next version of the file and use it at once."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys of one reading of the file."""

    entries: Mapping[str, KeyEntry]
    serial: int
    pepper: Confidential[bytes]

    @classmethod
    def of(cls, ring: KeyRing) -> ApiKeys:
        """Index the keys of a checked file."""
        entries = {entry.id: entry for entry in ring.file.keys}
        return cls(MappingProxyType(entries), ring.file.serial, ring.pepper)

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller of an `Authorization: Bearer …` header or raise `Unauthenticated`."""
        if not header:
            raise Unauthenticated("key-missing")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("key-missing")
        found = _KEY.fullmatch(header[len(_SCHEME) :].strip(b" "))
        if found is None or found[4] != checksum(found[1]):
            raise Unauthenticated("key-malformed")
        key_id = found[2].decode()
        entry = self.entries.get(key_id)
        # an unknown id costs the same work as a known one
        expected = _NOBODY if entry is None else bytes.fromhex(entry.tag)
        actual = key_tag(key_id, found[3], self.pepper)
        if not hmac.compare_digest(actual, expected) or entry is None:
            raise Unauthenticated("key-unknown")
        if now >= moment(entry.expires):
            raise Unauthenticated("key-expired")
        return Caller(entry.tenant, entry.id)
