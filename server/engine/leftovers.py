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


class SharedMemory:
    """Segments that an engine leaves in `directory`, which it shares with other programs.

    What was there before is written to `record`, so that the next start can clean up after a
    gateway that was killed. Segments that appeared since are removed if no process maps them.
    """

    def __init__(self, directory: Path, *, record: Path) -> None:
        self._directory = directory
        self._record = record

    def begin(self) -> None:
        """Finish what a killed gateway could not, then note what is there."""
        self.end()
        self._record.write_text("\n".join(sorted(self._segments())))

    def end(self) -> None:
        """Remove what is new since `begin`, by this or by an earlier process."""
        if not self._record.exists():
            return
        before = frozenset(self._record.read_text().splitlines())
        for name in self._segments() - before - _mapped():
            with contextlib.suppress(FileNotFoundError):
                (self._directory / name).unlink()
        self._record.unlink()

    def _segments(self) -> frozenset[str]:
        names = set()
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    names.add(entry.name)
        return frozenset(name for name in names if _OURS.fullmatch(name))


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
