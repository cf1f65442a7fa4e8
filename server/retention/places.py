"""Processes of a service in; what their machine may have kept of them, searched, out.

Needs the machine they run on, and root where they are hardened.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from server.retention.search import Search, Searched, joined, processes_below

PROC = Path("/proc")
MACHINE = ("/tmp", "/var/tmp", "/dev/shm", "/var/log", "/var/crash", "/var/lib/systemd/coredump")  # noqa: S108 - read, not written
"""Where programs of any machine leave files."""

_KERNEL_FILES = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "sysfs",
        "tracefs",
    ]
)
"""Kinds of mounts whose files are the kernel's own words, or hold no bytes."""
_KEEPS_NO_DUMP = re.compile(r"|\|/bin/false( .*)?")
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a process."""

    device: str
    kind: str
    point: str

    @classmethod
    def of(cls, pid: int) -> tuple[Mount, ...]:
        """Read `/proc/PID/mountinfo` (proc_pid_mountinfo(5))."""
        lines = (PROC / str(pid) / "mountinfo").read_text().splitlines()
        return tuple(cls._parse(line) for line in lines)

    @classmethod
    def _parse(cls, line: str) -> Mount:
        own, _, super_block = line.partition(" - ")
        fields = own.split(" ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
        return cls(fields[2], super_block.split(" ")[0], point)


def family(pids: Iterable[int]) -> frozenset[int]:
    """Return these processes and all that descend from them."""
    return frozenset(one for pid in pids for one in processes_below(pid))


def search_processes(search: Search, pids: Iterable[int]) -> Searched:
    """Search environment, command line and writable open files of each process and its children."""
    parts = []
    for pid in pids:
        if not (PROC / str(pid)).exists():
            parts.append(Searched(unread=(f"process {pid} is gone",)))
        parts += [search.process(one) for one in sorted(processes_below(pid))]
    return joined(parts)


def search_own_mounts(search: Search, pids: Iterable[int], *, since: int) -> Searched:
    """Search the file systems that only these processes see: in memory whole, else what changed."""
    ours = {mount.device for mount in Mount.of(os.getpid())}
    parts = []
    for pid in family(pids):
        try:
            mounts = Mount.of(pid)
        except FileNotFoundError:
            continue
        except OSError:
            parts.append(Searched(unread=(f"mounts of process {pid}",)))
            continue
        for mount in mounts:
            if mount.device not in ours and mount.kind not in _KERNEL_FILES:
                ours.add(mount.device)
                parts.append(_search_mount(search, pid, mount, since=since))
    return joined(parts)


def _search_mount(search: Search, pid: int, mount: Mount, *, since: int) -> Searched:
    root = PROC / str(pid) / "root" / mount.point.lstrip("/")
    try:
        status = root.stat()
    except OSError:
        return Searched(unread=(f"{mount.point} of process {pid}",))
    if not stat.S_ISDIR(status.st_mode):
        return search.file(root)
    whole = mount.kind == "tmpfs"
    return search.tree(root, since=0 if whole else since, device=status.st_dev)


def search_machine(search: Search, directories: Iterable[Path], *, since: int) -> Searched:
    """Search what changed below these directories; one that does not exist holds nothing."""
    return joined(search.tree(path, since=since) for path in sorted(directories))


@dataclass(frozen=True, slots=True)
class CoreDumps:
    """Where the kernel would have put a dump of these processes, noted while they live."""

    pattern: str
    directories: tuple[Path, ...]

    @classmethod
    def of(cls, pids: Iterable[int]) -> CoreDumps:
        """Read the kernel's pattern and the directories its files would be in (core(5))."""
        pattern = (PROC / "sys/kernel/core_pattern").read_text().strip()
        if pattern.startswith("/"):
            return cls(pattern, (Path(pattern).parent,))
        places = set()
        for pid in family(pids):
            try:
                places.add((PROC / str(pid) / "cwd").readlink())
                places.add(PROC / str(pid) / "cwd")  # leads into mounts of its own
            except OSError:
                continue  # its owner has its files, and `search_processes` says what is closed
        return cls(pattern, tuple(sorted(places)))

    def search(self, search: Search, *, since: int) -> Searched:
        """Search the files there that changed; a dump piped to a program is not found here."""
        if self.pattern.startswith("|") and not _KEEPS_NO_DUMP.fullmatch(self.pattern):
            return Searched(unread=("core dumps: piped to a program, which may keep them",))
        parts = [Searched(places=1, size=len(self.pattern))]
        parts += [search.tree(path, since=since, deep=False) for path in self.directories]
        return joined(parts)


def search_swap(search: Search, proc: Path = PROC) -> Searched:
    """Search every swap area byte by byte; no area is an empty list that was read."""
    lines = (proc / "swaps").read_text().splitlines()
    areas = [
        Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), line.split()[0]))
        for line in lines[1:]
    ]
    missing = tuple(f"swap area {area}" for area in areas if not area.exists())
    parts = [search.file(area) for area in areas if area.exists()]
    return joined((Searched(unread=missing, places=1, size=len("\n".join(lines))), *parts))
