"""The API key file on disk: re-read when it changes, so that a revocation works within a second."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.codec import MAX_JSON
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from attestation.regular import read_regular, replace_regular
from server.apikeys import Change, FreshKey, KeyFile, KeyRing
from server.auth import ApiKeys, Caller
from server.errors import Unavailable

_LOOK_SECONDS = 0.5
_ID = string.ascii_lowercase + string.digits

log = logging.getLogger("tacit.keys")


@dataclass(frozen=True, slots=True)
class _Version:
    inode: int
    size: int
    changed_ns: int
    renamed_ns: int


class ApiKeyFile:
    """`Keys` of a file that an operator edits while the gateway runs.

    A file that is gone, forged or older than the one before refuses everyone
    (`keys-unavailable`): the entry that was just removed must not live on.
    """

    def __init__(self, path: Path, pepper: Confidential[bytes]) -> None:
        self.path = path
        self.pepper = pepper
        self._version = _version(path)
        self._using = threading.Lock()
        self._newest: KeyFile | None = None
        self._keys: ApiKeys | None = None
        self._use(KeyRing.load(read(path), pepper, name=path.name))
        self._looked = time.monotonic()

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        """Return the caller, from the file as it was at most half a second ago."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._look()
        if self._keys is None:
            raise Unavailable("keys-unavailable", retry_after=5)
        return self._keys.authenticate(header, now)

    def listed(self) -> KeyFile:
        """Return the file as it is now, or raise `ConfigError`."""
        return self._checked().file

    def change(self, change: Change) -> KeyFile:
        """Write the next version of the file and use it at once, or raise `ConfigError`."""
        with locked(self.path):
            ring = change(self._checked())
            write(self.path, ring.file)
            self._use(ring)
        return ring.file

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            version = _version(self.path)
            if version == self._version and self._keys is not None:
                return
            # the version is taken before the bytes: a write in between is seen next time
            self._version = version
            ring = self._checked()
        except ConfigError as error:
            if self._keys is not None:
                log.error("api keys cannot be read", extra={"code": error.code})  # noqa: TRY400
            self._keys = None
        else:
            self._use(ring)

    def _use(self, ring: KeyRing) -> None:
        keys = ApiKeys.of(ring)
        with self._using:
            # a thread that read before another wrote must not bring the older keys back
            if self._newest is None or ring.file.serial >= self._newest.serial:
                self._newest, self._keys = ring.file, keys
        seen = {"keys": len(ring.file.keys), "serial": ring.file.serial}
        log.info("api keys read", extra=seen)

    def _checked(self) -> KeyRing:
        ring = KeyRing.load(read(self.path), self.pepper, name=self.path.name)
        newest = self._newest
        if newest is not None and ring.file != newest and ring.file.serial <= newest.serial:
            why = f"serial {ring.file.serial} after {newest.serial}"
            raise ConfigError("api-keys-older", why)
        return ring


def fresh_key(file: KeyFile) -> FreshKey:
    """Draw a key whose id is free in `file`."""
    taken = {entry.id for entry in file.keys}
    while True:
        key_id = "".join(secrets.choice(_ID) for _ in range(8))
        if key_id not in taken:
            return FreshKey(key_id, Confidential(secrets.token_bytes(32)))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the key file for one change at a time, between programs too."""
    try:
        # a pipe that nobody reads is refused then, and not waited for
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        lock = os.fdopen(os.open(path.with_name(f".{path.name}.lock"), flags, 0o600), "wb")
    except OSError as error:
        raise ConfigError("api-keys-unwritable", f"{path.name}: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(path: Path) -> bytes:
    """Return the bytes of the key file or raise `ConfigError`."""
    try:
        return read_regular(path, limit=MAX_JSON)
    except OSError as error:
        raise ConfigError("api-keys-missing", f"{path.name}: {error.strerror}") from None


def write(path: Path, file: KeyFile) -> None:
    """Replace the key file in one step that survives a crash, readable by its owner only."""
    data = json.dumps(file.model_dump(mode="json"), indent=1).encode()
    if len(data) > MAX_JSON:
        raise ConfigError("api-keys-unwritable", f"{path.name} would have {len(data)} bytes")
    try:
        replace_regular(path, data, mode=0o600)
    except OSError as error:
        raise ConfigError("api-keys-unwritable", f"{path.name}: {error.strerror}") from None


def _version(path: Path) -> _Version:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError("api-keys-missing", f"{path.name}: {error.strerror}") from None
    return _Version(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
