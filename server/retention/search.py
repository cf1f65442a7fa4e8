"""Needles in, the files, processes and streams that hold one of them out.

A search that could not look somewhere says so, and one that looked at nothing shows it by its
counts: "nothing found" is worth what was read.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK = 1024 * 1024
_PACKED: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b\x08", lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
_OPAQUE = (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"LPKSHHRH")
"""How Zstandard, LZ4 and the journal of systemd begin, which packs long fields."""
_LONGEST_MAGIC = 8


@dataclass(frozen=True, slots=True)
class Found:
    """A needle and the place that holds it."""

    where: str
    needle: str


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search read and found; `+` joins two."""

    found: tuple[Found, ...] = ()
    unread: tuple[str, ...] = ()
    """Places that exist and could not be read."""
    places: int = 0
    """Files, streams and process tables that were read."""
    size: int = 0
    """Bytes that were read."""

    def __add__(self, other: Searched) -> Searched:
        """Join what two searches did."""
        return Searched(
            self.found + other.found,
            self.unread + other.unread,
            self.places + other.places,
            self.size + other.size,
        )


def joined(parts: Iterable[Searched]) -> Searched:
    """Join what any number of searches did."""
    listed = tuple(parts)
    return Searched(
        tuple(found for part in listed for found in part.found),
        tuple(where for part in listed for where in part.unread),
        sum(part.places for part in listed),
        sum(part.size for part in listed),
    )


@dataclass(frozen=True, slots=True)
class Search:
    """Looks for `needles`, a name for each, wherever it is told to."""

    needles: Mapping[str, bytes]

    def text(self, where: str, data: bytes) -> Searched:
        """Search bytes that the caller has."""
        found = tuple(Found(where, name) for name in self._names_in(data))
        return Searched(found, places=1, size=len(data))

    def file(self, path: Path, *, where: str = "") -> Searched:
        """Search one regular file; one that has gone holds nothing."""
        where = where or str(path)
        try:
            with path.open("rb") as stream:
                searched = self._stream(where, stream)
                stream.seek(0)
                return searched + self._unpacked(where, stream)
        except FileNotFoundError:
            return Searched()
        except OSError:
            return Searched(unread=(where,))

    def tree(
        self, directory: Path, *, since: int = 0, device: int | None = None, deep: bool = True
    ) -> Searched:
        """Search the files below `directory`, their names, and the targets of links.

        `since` is nanoseconds since the epoch; a file that did not change after is not opened.
        With `device`, only directories on it are entered, without `deep` none. Sockets, pipes and
        devices keep nothing. Links are not followed.
        """
        parts: list[Searched] = []
        pending = [str(directory)]
        while pending:
            parent = pending.pop()
            try:
                with os.scandir(parent) as listing:
                    entries = list(listing)
            except FileNotFoundError:
                continue
            except OSError:
                parts.append(Searched(unread=(parent,)))
                continue
            parts.append(self._names(entries))
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if deep and device in (None, _device(entry)):
                        pending.append(entry.path)
                elif entry.is_symlink() or _changed_since(entry, since):
                    parts.append(self._entry(entry))
        return joined(parts)

    def process(self, pid: int) -> Searched:
        """Search the environment, the command line and the open, writable files of a process.

        Its memory is not searched: what a process works on is there.
        """
        base = Path(f"/proc/{pid}")
        searched = Searched()
        for name in ("environ", "cmdline", "comm"):
            searched += self.file(base / name)
        try:
            descriptors = list((base / "fd").iterdir())
        except FileNotFoundError:
            return searched
        except OSError:
            return searched + Searched(unread=(f"{base}/fd",))
        for path in descriptors:
            searched += self._descriptor(path, base / "fdinfo" / path.name)
        return searched

    def _unpacked(self, where: str, stream: BinaryIO) -> Searched:
        """Search what a packed file holds; a log that was rotated is often packed."""
        head = stream.read(_LONGEST_MAGIC)
        if head.startswith(_OPAQUE):
            return Searched(unread=(f"{where}: packed in a way that is not opened here",))
        for magic, unpack in _PACKED:
            if head.startswith(magic):
                stream.seek(0)
                try:
                    return self._stream(f"{where}, unpacked", unpack(stream))
                except (EOFError, OSError, lzma.LZMAError, zlib.error):
                    return Searched(unread=(f"{where}: packed, and damaged or still written",))
        return Searched()

    def _names(self, entries: Sequence[os.DirEntry[str]]) -> Searched:
        """Search the names of a directory; all at once, for hardly ever is there one to report."""
        names = [os.fsencode(entry.name) for entry in entries]
        size = sum(map(len, names))
        if not any(True for _ in self._names_in(b"\0".join(names))):
            return Searched(places=len(names), size=size)
        found = tuple(
            Found(f"name of {entry.path}", needle)
            for entry, name in zip(entries, names, strict=True)
            for needle in self._names_in(name)
        )
        return Searched(found, places=len(names), size=size)

    def _entry(self, entry: os.DirEntry[str]) -> Searched:
        if not entry.is_symlink():
            return self.file(Path(entry.path))
        try:
            return self.text(f"target of {entry.path}", os.fsencode(Path(entry.path).readlink()))
        except FileNotFoundError:
            return Searched()
        except OSError:
            return Searched(unread=(entry.path,))

    def _descriptor(self, path: Path, information: Path) -> Searched:
        try:
            if not stat.S_ISREG(path.stat().st_mode) or not _writable(information):
                return Searched()
            where = f"{path} -> {path.readlink()}"
        except FileNotFoundError:
            return Searched()
        except OSError:
            return Searched(unread=(str(path),))
        return self.file(path, where=where)  # opens it again, even when it has no name any more

    def _stream(self, where: str, stream: BinaryIO) -> Searched:
        overlap = max(map(len, self.needles.values())) - 1
        names: set[str] = set()
        size = 0
        rest = b""
        while data := stream.read(_CHUNK):
            size += len(data)
            window = rest + data
            if window != bytes(len(window)):  # shared memory is mostly zeros
                names.update(self._names_in(window))
            rest = window[-overlap:] if overlap else b""
        found = tuple(Found(where, name) for name in sorted(names))
        return Searched(found, places=1, size=size)

    def _names_in(self, data: bytes) -> Iterator[str]:
        return (name for name, needle in self.needles.items() if needle in data)


def processes_below(pid: int) -> frozenset[int]:
    """Return `pid` and every process that descends from it."""
    found = {pid}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= processes_below(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return frozenset(found)


def _changed_since(entry: os.DirEntry[str], since: int) -> bool:
    """Tell whether this is a file that may have new content; one that has gone has none."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # opening it will say why it cannot be read
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_nlink > 1:  # another link to it, as package installers make, is no new content
        return status.st_mtime_ns >= since
    return max(status.st_mtime_ns, status.st_ctime_ns) >= since  # a copy can keep the older mtime


def _device(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_dev
    except OSError:
        return -1


def _writable(information: Path) -> bool:
    for line in information.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False
