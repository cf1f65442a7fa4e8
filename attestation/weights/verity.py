"""What the kernel says of a mount in; whether dm-verity keeps its content from changing out.

Nothing is read from the volume itself: its own superblock and header are the host's to write. Two
answers decide. `proc_pid_mountinfo(5)` says which device is mounted, and that nothing lies over or
below it. The device mapper (`linux/dm-ioctl.h`, `DM_TABLE_STATUS`) says what the kernel does on
every read of that device: a table of one `verity` target with the pinned root hash, which fails
reads of blocks that do not hash to it.
"""

from __future__ import annotations

import hmac
import re
import struct
from dataclasses import dataclass

from attestation.errors import Malformed, NotAffirmed

ANSWER_SIZE = 16 * 1024
"""Bytes of the buffer the kernel answers into; one target needs less than a tenth."""
TABLE_STATUS = 0xC138FD0C
"""The request's number, `_IOWR(0xfd, 12, struct dm_ioctl)`."""

_HEAD = struct.Struct("=3IIIIiIIIQ128s129s7x")  # struct dm_ioctl: 312 bytes
_TARGET = struct.Struct("=QQiI16s")  # struct dm_target_spec
_INTERFACE = (4, 0, 0)
_READ_ONLY, _SUSPENDED, _WANT_TABLE, _ACTIVE, _INACTIVE, _FULL = (
    1 << bit for bit in (0, 1, 4, 5, 6, 8)
)
_KINDS = frozenset({"erofs", "squashfs"})
"""File systems that cannot be written at all, and so are whole on a device that cannot either."""
_OPTIONS = {
    "restart_on_corruption": 0,
    "panic_on_corruption": 0,
    "restart_on_error": 0,
    "panic_on_error": 0,
    "try_verify_in_tasklet": 0,
    "root_hash_sig_key_desc": 1,
}
"""Options that weaken nothing, and their words. `ignore_corruption` passes what was changed, and
`check_at_most_once` what is changed later; whatever a new kernel adds is refused until it is here.
"""
_FIXED_WORDS = 10
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    id: int
    device: tuple[int, int]
    """Major and minor number."""
    root: bytes
    """What of the file system is mounted; `/` is all of it."""
    point: bytes
    kind: str
    options: frozenset[str]
    """Of the file system itself, whichever mount of it is looked at."""


def mounts(mountinfo: bytes) -> tuple[Mount, ...]:
    """Parse mountinfo; raises `Malformed` "verity-answer"."""
    try:
        # not splitlines: the kernel escapes line feeds in names, and no carriage returns
        return tuple(_mount(line) for line in mountinfo.removesuffix(b"\n").split(b"\n"))
    except (ValueError, IndexError):
        raise Malformed("verity-answer", "mountinfo has a line of another form") from None


def _mount(line: bytes) -> Mount:
    words = line.split(b" ")
    end = words.index(b"-", 6)  # any number of optional fields ends there
    major, minor = words[2].split(b":")
    return Mount(
        id=int(words[0]),
        device=(int(major), int(minor)),
        root=_plain(words[3]),
        point=_plain(words[4]),
        kind=words[end + 1].decode("ascii"),
        options=frozenset(words[end + 3].decode("utf-8", errors="replace").split(",")),
    )


def _plain(word: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 255]), word)


def mounted_device(mountinfo: bytes, *, mount_id: int, directory: bytes) -> tuple[int, int]:
    """Return the device of mount `mount_id`, if `directory` is all of it and nothing lies below.

    Raises `NotAffirmed` "verity-not-mounted" or "verity-mount".
    """
    every = mounts(mountinfo)
    here = next((mount for mount in every if mount.id == mount_id), None)
    if here is None or here.point != directory:
        raise NotAffirmed("verity-not-mounted", "the directory is no mount of its own")
    if here.root != b"/":
        raise NotAffirmed("verity-mount", "a part of a file system is mounted, not all of it")
    if here.kind not in _KINDS or "ro" not in here.options:
        raise NotAffirmed("verity-mount", "the file system is not read-only erofs or squashfs")
    inside = directory.rstrip(b"/") + b"/"
    below = sum(mount.point.startswith(inside) and mount is not here for mount in every)
    if below:
        raise NotAffirmed("verity-mount", f"{below} mounts lie over its files")
    return here.device


def table_request(device: tuple[int, int]) -> bytearray:
    """Return the buffer that asks for the table of `device`; the kernel answers in its place."""
    buffer = bytearray(ANSWER_SIZE)
    rest = (ANSWER_SIZE, _HEAD.size, 0, 0, _WANT_TABLE, 0, 0, _number(device), b"", b"")
    _HEAD.pack_into(buffer, 0, *_INTERFACE, *rest)
    return buffer


def check_table(answer: bytes, *, device: tuple[int, int], root_hash: bytes) -> None:
    """Return if the live table of `device` is dm-verity under `root_hash` and fails bad reads.

    Raises `Malformed` "verity-answer", or `NotAffirmed` "verity-device", "verity-root" or
    "verity-options".
    """
    words = _verity_words(answer, device)
    try:
        version, _data, _hash, *sizes = words[:7]
        algorithm, root = words[7], bytes.fromhex(words[8])
        numbers = [int(size) for size in sizes]
        options = _options(words[_FIXED_WORDS:])
    except (ValueError, IndexError):
        raise Malformed("verity-answer", "the verity table has another form") from None
    if version != "1" or algorithm != "sha256" or 0 in numbers[:3]:
        raise NotAffirmed("verity-device", "the hash tree is not format 1 with SHA-256")
    if not hmac.compare_digest(root, root_hash):
        raise NotAffirmed("verity-root", f"the device's root hash is {root.hex()[:128]}")
    for name in options:
        if name not in _OPTIONS:
            raise NotAffirmed("verity-options", "the device does not fail every bad read")


def _verity_words(answer: bytes, device: tuple[int, int]) -> list[str]:
    """Return the parameters of the one target, if the device is live, read-only and verity."""
    try:
        head = _HEAD.unpack_from(answer)
        start, count, flags, number = head[4], head[5], head[7], head[10]
        target = _TARGET.unpack_from(answer, start)
        body = answer[start + _TARGET.size :]
        text = body[: body.index(b"\0")].decode("ascii")
    except (struct.error, ValueError):
        raise Malformed("verity-answer", f"device-mapper answer of {len(answer)} bytes") from None
    if number != _number(device) or flags & _FULL:
        raise Malformed("verity-answer", "the device mapper answered something else")
    live = _READ_ONLY | _ACTIVE
    if flags & (live | _SUSPENDED | _INACTIVE) != live or count != 1 or target[0] != 0:
        raise NotAffirmed("verity-device", "the device is not one live read-only table")
    if target[4].rstrip(b"\0") != b"verity":
        raise NotAffirmed("verity-device", "the device's target is not dm-verity")
    return text.split()


def _options(words: list[str]) -> list[str]:
    """Return the names among the optional parameters, which a count of all words precedes."""
    if not words:
        return []
    left = words[1:]
    if int(words[0]) != len(left):
        raise ValueError("stray words")
    names = []
    while left:
        names.append(left[0])
        left = left[1 + _OPTIONS.get(left[0], 0) :]
    return names


def _number(device: tuple[int, int]) -> int:
    """Write a device number as the kernel's `huge_encode_dev` does; libc's differs."""
    major, minor = device
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
