"""Key encryption keys: open one by its URI; wrap and unwrap data keys with authenticated names."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from attestation.broker.hsm import FORM as HSM_FORM
from attestation.broker.hsm import open_hsm
from attestation.broker.openbao import FORM as OPENBAO_FORM
from attestation.broker.openbao import open_openbao
from attestation.codec import b64url, unb64url
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic
from attestation.regular import open_regular

_MAGIC = "tacit-kek-v1:"


class Kek(Protocol):
    """Wraps data keys. It may be a file, a transit engine or an HSM; its key never leaves it."""

    @property
    def id(self) -> str:
        """Name of this very key, written into what it wraps."""

    def wrap(self, key: Confidential[bytes], *, aad: bytes) -> bytes:
        """Return `key` encrypted; only the same `aad` opens it again."""

    def unwrap(self, wrapped: bytes, *, aad: bytes) -> Confidential[bytes]:
        """Return the key; raise `NotAuthentic` for other bytes or another `aad`.

        Where the KEK cannot be used (sealed, down, refusing) it raises `Undecidable`.
        """

    def check(self) -> None:
        """Raise `Undecidable` while it cannot be used, `ConfigError` if its key could leave it."""

    def close(self) -> None:
        """Let go of connections and sessions."""


class FileKek:
    """A KEK in a file of mode 0600: for development, and refused by production profiles.

    AES-256-GCM with a random 96-bit nonce in front; the number of keys wrapped under one KEK stays
    far below the 2^32 bound of NIST SP 800-38D section 8.3.
    """

    def __init__(self, key: Confidential[bytes]) -> None:
        secret = key.reveal()
        self._cipher = AESGCM(secret)
        name = HKDFExpand(hashes.SHA256(), 16, b"tacit/v1/kek-id").derive(secret)
        self._id = f"file:{name.hex()}"

    @property
    def id(self) -> str:
        """`file:` and 32 hex digits derived from the key, which they do not reveal."""
        return self._id

    def wrap(self, key: Confidential[bytes], *, aad: bytes) -> bytes:
        """Encrypt `key` with a fresh nonce."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, key.reveal(), aad)

    def unwrap(self, wrapped: bytes, *, aad: bytes) -> Confidential[bytes]:
        """Decrypt what `wrap` returned for the same `aad`."""
        if len(wrapped) < 29:  # nonce, tag, and at least one byte
            raise Malformed("wrapped-key", f"a wrapped key of {len(wrapped)} bytes")
        try:
            return Confidential(self._cipher.decrypt(wrapped[:12], wrapped[12:], aad))
        except InvalidTag:
            raise NotAuthentic("kek-mismatch", f"a wrapped key of {len(wrapped)} bytes") from None

    def check(self) -> None:
        """Do nothing: the key was read when this was made."""

    def close(self) -> None:
        """Do nothing: the file was closed when it had been read."""


def create_file_kek(path: Path) -> FileKek:
    """Write a new random KEK to `path` (mode 0600); an existing file is never replaced."""
    key = os.urandom(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            stream.write(f"{_MAGIC}{b64url(key)}\n")
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise ConfigError("kek-file", f"{path}: {error.strerror}") from None
    return FileKek(Confidential(key))


def open_file_kek(location: str, *, directory: Path) -> FileKek:
    """Read the KEK file at `location`; refuse it when others could have read it too."""
    try:
        with open_regular(directory / location) as stream:
            mode = os.fstat(stream.fileno())
            data = stream.read(1024)
    except OSError as error:
        raise ConfigError("kek-file", f"{location}: {error.strerror}") from None
    if stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid not in (0, os.geteuid()):
        raise ConfigError("kek-permissions", f"{location} has mode {stat.S_IMODE(mode.st_mode):o}")
    try:
        text = data.decode("ascii")
        secret = unb64url(text.removeprefix(_MAGIC).removesuffix("\n"), what="kek")
    except (UnicodeDecodeError, Malformed):
        raise ConfigError("kek-file", f"{location} is not a KEK file") from None
    if not text.startswith(_MAGIC) or len(secret) != 32:
        raise ConfigError("kek-file", f"{location} is not a KEK file")
    return FileKek(Confidential(secret))


class _Opened(Protocol):
    def __call__(self, location: str, *, directory: Path) -> Kek: ...


PROVIDERS: Mapping[str, _Opened] = MappingProxyType(
    {"file": open_file_kek, "openbao": open_openbao, "pkcs11": open_hsm}
)
"""URI scheme -> how its keys are opened. Another KMS is one more row."""

FORMS = ("file:PATH", OPENBAO_FORM, HSM_FORM)
"""The URIs, for people."""


def open_kek(uri: str, *, directory: Path = Path()) -> Kek:
    """Open the KEK named by `uri`; paths in it are relative to `directory`.

    Credentials are files that the URI names, never part of it. Raises `ConfigError`.
    """
    scheme, colon, location = uri.partition(":")
    if not colon or not location or scheme not in PROVIDERS:
        raise ConfigError("kek-uri", f"a KEK is one of {', '.join(sorted(PROVIDERS))}:LOCATION")
    return PROVIDERS[scheme](location, directory=directory)
