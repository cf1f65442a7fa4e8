"""A path in, the bytes of the regular file there out, or new ones whole in its place.

Pipes, devices and sockets stay untouched: opening a pipe waits for somebody at its other end, a
device may never end, and replacing either would take it from whoever uses it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading, links followed; raises `OSError`, also for what is no regular file.

    The descriptor that is checked is the one that is read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes, so that who asks can tell a longer file; raises `OSError`."""
    with open_regular(path) as stream:
        return stream.read(limit + 1)


def require_regular(*paths: Path) -> None:
    """Raise `OSError` unless each is a regular file, for libraries that open paths themselves."""
    for path in paths:
        _require_regular(path.stat(), path)


def replace_regular(path: Path, data: bytes, *, mode: int) -> None:
    """Write `path`, links followed, so that readers and crashes see all of it or the old file.

    `mode` is what the umask leaves of it. Raises `OSError`, and leaves nothing else behind.
    """
    place = place_to_write(path)
    beside = place.with_name(f".{place.name[:32]}.{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(place.parent)


def place_to_write(path: Path) -> Path:
    """Return where a new version of `path` belongs, links followed.

    Raises `OSError` where something that is no regular file would be replaced.
    """
    place = Path(os.path.realpath(path))
    try:
        _require_regular(place.stat(), path)
    except FileNotFoundError:
        return place
    return place


def sync_directory(directory: Path) -> None:
    """Have the names in `directory` outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device, not a file; name a file", str(path))
