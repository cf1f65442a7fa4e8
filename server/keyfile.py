"""The API key file on disk: re-read when it changes, so that a revocation works within a second."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.codec import MAX_JSON
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from server.auth import ApiKeys, Caller
from server.errors import Unavailable

_LOOK_SECONDS = 0.5

log = logging.getLogger("tacit.keys")


@dataclass(frozen=True, slots=True)
class _Version:
    inode: int
    size: int
    changed_ns: int
    renamed_ns: int


class ApiKeyFile:
    """`Keys` of a file that an operator edits while the gateway runs.

    A file that is gone or does not parse refuses everyone (`keys-unavailable`): the entry that was
    just removed must not live on because of a typing error elsewhere.
    """

    def __init__(self, path: Path, pepper: Confidential[bytes]) -> None:
        self.path = path
        self._pepper = pepper
        self._version = _version(path)
        self._keys: ApiKeys | None = ApiKeys.load(_read(path), pepper)
        self._looked = time.monotonic()

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller, from the file as it was at most half a second ago."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._look()
        if self._keys is None:
            raise Unavailable("keys-unavailable", retry_after=5)
        return self._keys.authenticate(header, now)

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            version = _version(self.path)
            if version == self._version and self._keys is not None:
                return
            # the version is taken before the bytes: a write in between is seen next time
            self._version = version
            self._keys = ApiKeys.load(_read(self.path), self._pepper)
        except ConfigError as error:
            if self._keys is not None:
                log.error("api keys cannot be read", extra={"code": error.code})  # noqa: TRY400
            self._keys = None
        else:
            log.info("api keys read", extra={"keys": len(self._keys.entries)})


def _version(path: Path) -> _Version:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError("api-keys-missing", f"{path.name}: {error.strerror}") from None
    return _Version(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_JSON + 1)
    except OSError as error:
        raise ConfigError("api-keys-missing", f"{path.name}: {error.strerror}") from None


def write(path: Path, data: bytes) -> None:
    """Replace the key file in one step, readable by its owner only."""
    beside = path.with_name(f".{path.name}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
