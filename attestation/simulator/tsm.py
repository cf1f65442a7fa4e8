"""The kernel of a software TD: configfs-tsm, RTMR sysfs and CCEL as plain directories.

    DIR/report/<name>/          the guest makes it; inblob, outblob, generation, provider appear
    DIR/measurements/           mrtd:sha384, rtmr0:sha384 … rtmr3:sha384, mrconfigid, mrowner, …;
                                writing 48 bytes to an RTMR file extends the register
    DIR/ccel/CCEL, DIR/ccel/data    the ACPI table and the log it points to
    DIR/boot-request            whoever makes this file gets a freshly booted TD; it vanishes then

A file that the guest wrote is recognised by its modification time: ours are all dated 1970.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import ConfigError
from attestation.simulator.firmware import CCEL_SIZE, encode_table
from attestation.simulator.gpus import SoftwareGpus
from attestation.simulator.guest import SoftwareGuest

IDLE_S = 0.01
BUSY_S = 0.002
"""Pauses between two looks at the directory, without and shortly after a guest's request."""
_BUSY_POLLS = 100
BOOT_REQUEST = "boot-request"

_OURS = (0, 0)


@dataclass(slots=True)
class _Request:
    """A report directory: how often its inblob was written."""

    generation: int = 0


class SimulatedKernel:
    """Serves one directory; each `boot` is a TD in its firmware state, with all requests gone."""

    def __init__(
        self,
        directory: Path,
        launch: Callable[[], SoftwareGuest],
        *,
        gpus: SoftwareGpus | None = None,
    ) -> None:
        self._directory = directory
        self._gpus = gpus
        self._launch = launch
        self._reports = directory / "report"
        self._measurements = directory / "measurements"
        self._registers = tuple(self._measurements / f"rtmr{n}:sha384" for n in range(4))
        self._staging = directory / ".staging"
        self._boot_request = directory / BOOT_REQUEST
        self._requests: dict[str, _Request] = {}
        self._guest = launch()

    @property
    def guest(self) -> SoftwareGuest:
        """The TD that is running now."""
        return self._guest

    def boot(self) -> None:
        """Start a fresh TD: registers as the firmware leaves them, no request open."""
        self._guest = self._launch()
        self._requests.clear()
        for directory in (self._reports, self._measurements, self._staging):
            directory.mkdir(exist_ok=True, parents=True)
        for left in self._reports.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        ccel = self._directory / "ccel"
        ccel.mkdir(exist_ok=True)
        self._publish(ccel / "CCEL", encode_table(CCEL_SIZE), mode=0o444)
        self._publish(ccel / "data", self._guest.firmware_log(), mode=0o444)
        report = self._guest.report
        fixed = {
            "mrtd:sha384": report.mrtd,
            "mrconfigid": report.mr_config_id,
            "mrowner": report.mr_owner,
            "mrownerconfig": report.mr_owner_config,
        }
        for name, value in fixed.items():
            self._publish(self._measurements / name, value, mode=0o444)
        for index in range(len(self._registers)):
            self._publish_register(index)
        if self._gpus is not None:
            self._gpus.boot()
        self._boot_request.unlink(missing_ok=True)

    def poll(self) -> bool:
        """Look once at everything a guest may have written, and answer; say whether one is busy."""
        busy = False
        if self._boot_request.exists():
            self.boot()
        for index, path in enumerate(self._registers):
            if _written(path, size=48):
                self._guest.extend_register(index, path.read_bytes())
                self._publish_register(index)
                busy = True
        names = {entry.name for entry in self._reports.iterdir()}
        for gone in self._requests.keys() - names:
            del self._requests[gone]
        for name in names:
            # The guest may take it away at any time.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._serve_request(name)
        answered = self._gpus is not None and self._gpus.poll()
        return busy or answered or bool(names)

    def serve(self, stop: threading.Event) -> None:
        """Poll until `stop` is set."""
        quiet = 0
        while not stop.wait(BUSY_S if quiet < _BUSY_POLLS else IDLE_S):
            quiet = 0 if self.poll() else quiet + 1

    def _serve_request(self, name: str) -> None:
        entry = self._reports / name
        request = self._requests.get(name)
        if request is None:
            self._requests[name] = _Request()
            self._publish(entry / "inblob", b"", mode=0o600)
            self._publish(entry / "provider", b"tdx_guest\n", mode=0o444)
            self._publish(entry / "generation", b"0\n", mode=0o444)
            return
        inblob = entry / "inblob"
        if not _written(inblob, size=64):
            return
        os.utime(inblob, ns=_OURS)  # before reading: a later write is then seen as another one
        quote = self._guest.quote(inblob.read_bytes())
        request.generation += 1
        (entry / "outblob").unlink(missing_ok=True)  # the last answer is not this one's
        self._publish(entry / "generation", b"%d\n" % request.generation, mode=0o444)
        self._publish(entry / "outblob", quote, mode=0o400)

    def _publish_register(self, index: int) -> None:
        self._publish(self._registers[index], self._guest.report.rtmrs[index], mode=0o644)

    def _publish(self, path: Path, data: bytes, *, mode: int) -> None:
        """Let `data` appear at `path` whole, dated as ours."""
        staged = self._staging / secrets.token_hex(8)
        staged.write_bytes(data)
        staged.chmod(mode)
        os.utime(staged, ns=_OURS)
        try:
            staged.replace(path)
        except FileNotFoundError:
            staged.unlink()
            raise


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory for one simulator, or raise `ConfigError` `simulator-busy`."""
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("simulator-busy", f"{directory} is already served") from None
        yield


def request_boot(directory: Path, *, timeout_s: float = 10) -> None:
    """Ask the simulator that serves `directory` for a freshly booted TD and wait for it."""
    if not (directory / "measurements").is_dir():
        raise ConfigError("simulator-down", f"{directory} has no booted TD")
    request = directory / BOOT_REQUEST
    request.touch()
    deadline = time.monotonic() + timeout_s
    while request.exists():
        if time.monotonic() >= deadline:
            request.unlink(missing_ok=True)
            raise ConfigError("simulator-down", f"{directory} did not boot in {timeout_s:g} s")
        time.sleep(BUSY_S)


def _written(path: Path, *, size: int) -> bool:
    """Say whether the guest has written exactly `size` bytes since we last published `path`."""
    status = path.stat()
    return status.st_mtime_ns != 0 and status.st_size == size
