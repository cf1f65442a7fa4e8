"""A path in, the bytes of the regular file there out; pipes, devices and sockets stay unread."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading, links followed; raises `OSError`, also for what is no regular file.

    Opening a pipe waits for somebody who writes, and a device may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    stream = os.fdopen(descriptor, "rb")
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        stream.close()
        raise
    return stream


def read_regular(path: Path, *, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes, so that who asks can tell a longer file; raises `OSError`."""
    with open_regular(path) as stream:
        return stream.read(limit + 1)


def place_to_write(path: Path) -> Path:
    """Return where a new version of `path` belongs, links followed.

    Raises `OSError` where something that is no regular file would be replaced.
    """
    place = path.resolve()
    try:
        _require_regular(place.stat(), path)
    except FileNotFoundError:
        return place
    return place


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device, not a file; name a file", str(path))
