"""A kernel that knows one mounted volume, answering in the layout of `linux/dm-ioctl.h`."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import NotAffirmed

ROOT = bytes(range(32))
SALT = "00ff"
DEVICE = (253, 300)  # a minor number over 255 tells the kernel's encoding from a shift
READ_ONLY, SUSPENDED, ACTIVE, INACTIVE, FULL = 1, 2, 32, 64, 256


class DmIoctl(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 3),
        ("data_size", ctypes.c_uint32),
        ("data_start", ctypes.c_uint32),
        ("target_count", ctypes.c_uint32),
        ("open_count", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("event_nr", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("dev", ctypes.c_uint64),
        ("name", ctypes.c_char * 128),
        ("uuid", ctypes.c_char * 129),
        ("data", ctypes.c_char * 7),
    )


class DmTargetSpec(ctypes.Structure):
    _fields_ = (
        ("sector_start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("status", ctypes.c_int32),
        ("next", ctypes.c_uint32),
        ("target_type", ctypes.c_char * 16),
    )


def encoded(device: tuple[int, int]) -> int:
    """Return a device number as `huge_encode_dev` writes it."""
    major, minor = device
    return (minor & 0xFF) | (major << 8) | ((minor >> 8) << 20)


def line(
    root: bytes = ROOT, *, options: str = "", version: str = "1", algorithm: str = "sha256"
) -> str:
    """Return the table line of dm-verity: what `dmsetup table` prints after the target's name."""
    return f"{version} 8:16 8:16 4096 4096 16 1 {algorithm} {root.hex()} {SALT}{options}"


def mount_line(
    point: str,
    *,
    number: int = 40,
    device: tuple[int, int] = DEVICE,
    root: str = "/",
    kind: str = "erofs",
    options: str = "ro,user_xattr",
) -> str:
    """Return one line of mountinfo, with an optional field."""
    where = f"{device[0]}:{device[1]}"
    return f"{number} 1 {where} {root} {point} ro,nosuid shared:7 - {kind} /dev/dm-0 {options}"


@dataclass
class Volume:
    """What the kernel says of one volume; a test changes what it likes."""

    place_: bytes
    number: int = 40
    mounts: str = ""
    parameters: str = line()
    target: bytes = b"verity"
    flags: int = READ_ONLY | ACTIVE
    targets: int = 1
    start: int = 0
    device: tuple[int, int] = DEVICE
    mapped: bool = True

    @classmethod
    def at(cls, directory: Path) -> Volume:
        """Return a sound volume mounted at `directory`."""
        point = str(directory.resolve())
        root_line = mount_line("/", number=1, device=(0, 30), kind="ext4", options="rw")
        return cls(os.fsencode(point), mounts=f"{root_line}\n{mount_line(point)}\n")

    def place(self, _: int) -> tuple[int, bytes]:
        return self.number, self.place_

    def mountinfo(self) -> bytes:
        return self.mounts.encode()

    def table(self, request: bytearray) -> bytes:
        asked = DmIoctl.from_buffer(request)
        assert (asked.data_size, asked.data_start) == (len(request), ctypes.sizeof(DmIoctl))
        assert (asked.flags, asked.dev) == (1 << 4, encoded(DEVICE))
        assert (asked.version[0], asked.name, asked.uuid) == (4, b"", b"")
        if not self.mapped:
            raise NotAffirmed("verity-device", "the volume is no mapped device")
        return self.answer(len(request))

    def answer(self, size: int = 16384) -> bytes:
        head = DmIoctl(
            version=(4, 48, 0),
            data_size=size,
            data_start=312,
            target_count=self.targets,
            flags=self.flags,
            dev=encoded(self.device),
            name=b"qwen3",
            uuid=b"CRYPT-VERITY-6f3d502de2f2495c97e639559f5ede1c-qwen3",
        )
        words = self.parameters.encode() + b"\0"
        target = DmTargetSpec(self.start, 128, 0, 40 + len(words), self.target)
        return (bytes(head) + bytes(target) + words).ljust(size, b"\0")
