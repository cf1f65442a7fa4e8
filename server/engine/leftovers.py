"""Where an engine may write: made empty before it starts, removed after it ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives
_OURS = re.compile(r"(psm_|vllm_|sem\.mp-|torch_)[\w.-]*")
_MAPPED = re.compile(r" /dev/shm/([^/\s]+)(?: \(deleted\))?$", re.MULTILINE)


def shared_memory(directory: Path) -> frozenset[str]:
    """Return the names of this user's segments that an engine could have made."""
    names = set()
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                names.add(entry.name)
    return frozenset(name for name in names if _OURS.fullmatch(name))


def remove_shared_memory(directory: Path, *, before: frozenset[str]) -> int:
    """Unlink segments that are new since `before` and that no process maps; return how many."""
    removed = 0
    for name in shared_memory(directory) - before - _mapped():
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()
            removed += 1
    return removed


def make_private(path: Path) -> None:
    """Make an empty directory that only this user enters, in place of what is there."""
    remove_tree(path)
    path.mkdir(mode=0o700)


def remove_socket(path: Path) -> None:
    """Unlink the socket at `path`, if there is one; nothing else is ever removed here."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def remove_tree(path: Path) -> None:
    """Remove the directory at `path` and everything in it."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _mapped() -> frozenset[str]:
    names: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it ended, or is somebody else's
            names.update(_MAPPED.findall(maps.read_text(errors="replace")))
    return frozenset(names)
