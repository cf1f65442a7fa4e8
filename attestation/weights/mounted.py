"""Open a model on a dm-verity volume: root hash pinned by the reader, every file as it was signed.

Order, each step before the next reads anything: 1. the directory is a whole mount with nothing over
it; 2. the kernel verifies its device under the pinned root hash; 3. the manifest is the signer's;
4. the volume holds exactly the files it names; 5. each hashes to its signed SHA-256. dm-verity then
keeps what was hashed from changing, so that an engine may read it as ordinary files.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.codec import MAX_JSON
from attestation.errors import ConfigError, Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.manifest import MANIFEST, Manifest, SealedFile
from attestation.weights.unlocked import open_regular
from attestation.weights.verity import TABLE_STATUS, check_table, mounted_device, table_request

_BLOCK = 4 * 1024 * 1024


class BlockLayer(Protocol):
    """What the kernel knows of mounts and mapped devices."""

    def place(self, descriptor: int) -> tuple[int, bytes]:
        """Return the mount an open directory is in, by number, and its path."""

    def mountinfo(self) -> bytes:
        """Return every mount this process sees."""

    def table(self, request: bytearray) -> bytes:
        """Carry out `DM_TABLE_STATUS`; raises `NotAffirmed` "verity-device" or `ConfigError`."""


class KernelBlockLayer:
    """The running kernel. Its device mapper answers CAP_SYS_ADMIN alone."""

    def place(self, descriptor: int) -> tuple[int, bytes]:
        """Return the mount an open directory is in, by number, and its path."""
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            if ":\t" in line
        )
        return int(fields["mnt_id"]), os.fsencode(Path(f"/proc/self/fd/{descriptor}").readlink())

    def mountinfo(self) -> bytes:
        """Return every mount this process sees."""
        return Path("/proc/self/mountinfo").read_bytes()

    def table(self, request: bytearray) -> bytes:
        """Carry out `DM_TABLE_STATUS`; raises `NotAffirmed` "verity-device" or `ConfigError`."""
        try:
            with Path("/dev/mapper/control").open("rb", buffering=0) as control:
                fcntl.ioctl(control, TABLE_STATUS, request)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise NotAffirmed("verity-device", "the volume is no mapped device") from None
            raise ConfigError("verity-unavailable", f"device mapper: {error.strerror}") from None
        return bytes(request)


@dataclass(frozen=True, slots=True)
class MountedModel:
    """A directory whose every file is what was signed, on a volume that stays as it is."""

    directory: Path
    """Where the kernel says it is mounted."""
    manifest: Manifest

    @classmethod
    def open(
        cls, directory: Path, *, root_hash: bytes, signer: Ed25519PublicKey, kernel: BlockLayer
    ) -> MountedModel:
        """Open the volume mounted at `directory`; hashes all of it, with all cores.

        Raises `Malformed`, `NotAuthentic`, `NotAffirmed`, `Undecidable` or `ConfigError` with a
        `verity-…`, `weights-…` or `manifest-…` code.
        """
        with _opened(directory) as descriptor:
            mount_id, place = kernel.place(descriptor)
            device = mounted_device(kernel.mountinfo(), mount_id=mount_id, directory=place)
            check_table(kernel.table(table_request(device)), device=device, root_hash=root_hash)
            return cls.read(Path(os.fsdecode(place)), signer=signer)

    @classmethod
    def read(cls, directory: Path, *, signer: Ed25519PublicKey) -> MountedModel:
        """Compare a directory with its signed manifest, wherever it lies: for building a volume."""
        manifest = Manifest.open(_manifest(directory), signer=signer)
        _check_listing(directory, manifest)
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores, thread_name_prefix="hash") as pool:
            for checked in [pool.submit(_check_file, directory, f) for f in manifest.files]:
                checked.result()
        return cls(directory, manifest)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory, flags)
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{directory}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _manifest(directory: Path) -> bytes:
    try:
        with os.fdopen(open_regular(directory / MANIFEST, what=MANIFEST), "rb") as stream:
            return stream.read(MAX_JSON + 1)
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{MANIFEST}: {error.strerror}") from None


def _check_listing(directory: Path, manifest: Manifest) -> None:
    named = {MANIFEST, *(file.path for file in manifest.files)}
    try:
        present = set(_files(directory, ""))
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{directory}: {error.strerror}") from None
    for name in sorted(present - named):
        raise NotAuthentic("weights-extra-file", f"{name!r} is not in the manifest")
    for name in sorted(named - present):
        raise Malformed("weights-missing-file", f"{name} is not there")


def _files(directory: Path, prefix: str) -> Iterator[str]:
    """Name everything below `directory` that is no directory, a link to one among it."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(directory / entry.name, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}"


def _check_file(directory: Path, file: SealedFile) -> None:
    content, block = hashlib.sha256(), memoryview(bytearray(min(_BLOCK, file.size + 1)))
    descriptor = open_regular(directory / file.path, what=file.path)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            size = os.fstat(descriptor).st_size
            if size != file.size:
                raise Malformed("weights-size", f"{file.path} has {size} bytes, not {file.size}")
            while got := stream.readinto(block):
                content.update(block[:got])
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{file.path}: {error.strerror}") from None
    if not hmac.compare_digest(content.hexdigest(), file.sha256):
        found = content.hexdigest()
        raise NotAuthentic("weights-content", f"the content of {file.path} hashes to {found}")
