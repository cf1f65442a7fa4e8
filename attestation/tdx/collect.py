"""Evidence of this TD from the kernel: measures events, reads the log, asks for quotes.

Interfaces: configfs-tsm (Documentation/ABI/testing/configfs-tsm-report, Linux 6.7), RTMR sysfs
(Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest, Linux 6.16) and the ACPI table
CCEL. No environment variable is read. The quote comes through the host and is not believed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.tdx.eventlog import EventLog, RuntimeEvent, encode_runtime_event
from attestation.tdx.layout import claimed_report_data

T = TypeVar("T")

MAX_OUTBLOB = 128 * 1024
"""Bytes of the largest quote a Linux guest can be given (GET_QUOTE buffer since 7.0)."""
MAX_CCEL = 1024 * 1024

_PROVIDER = b"tdx_guest"
_POLL_S = 0.002
_RTMR3 = "rtmr3:sha384"

_CCEL = (
    Path("/sys/firmware/acpi/tables/data/CCEL"),
    Path("/run/tacit-acpi/tables/data/CCEL"),
)
"""Where the log is. Containers see no /sys/firmware; theirs is bound to the second place. Neither
is believed: a log explains the registers of a quote or is refused."""


class TdxGuest:
    """The TD we run in. Only this process may extend RTMR3, or the log would not explain it."""

    def __init__(
        self, reports: Path, measurements: Path, ccel: Path, *, timeout_s: float = 30
    ) -> None:
        """Take configfs-tsm's `report`, the `measurements` of tdx_guest and the CCEL log.

        Raises `ConfigError` `tdx-absent` when one of them does not exist.
        """
        for path, needs in (
            (reports, "configfs mounted and the tsm module (Linux 6.7)"),
            (measurements, "the tdx_guest module (Linux 6.16)"),
            (ccel, "firmware that measures into CCEL"),
        ):
            if not path.exists():
                raise ConfigError("tdx-absent", f"{path} does not exist; it needs {needs}")
        self._reports = reports
        self._rtmr3 = measurements / _RTMR3
        self._ccel = ccel
        self._timeout_s = timeout_s
        self._events: list[RuntimeEvent] = []
        self._measuring = threading.Lock()
        self._quoting = (
            threading.Lock()
        )  # the kernel has one quote buffer; a second asker gets EBUSY

    @classmethod
    def kernel(cls, *, timeout_s: float = 30) -> TdxGuest:
        """Use the interfaces of the running Linux kernel."""
        return cls(
            Path("/sys/kernel/config/tsm/report"),
            Path("/sys/devices/virtual/misc/tdx_guest/measurements"),
            next((path for path in _CCEL if path.exists()), _CCEL[0]),
            timeout_s=timeout_s,
        )

    @classmethod
    def insecure_simulated(cls, directory: Path, *, timeout_s: float = 30) -> TdxGuest:
        """Use the directories of a software TDX (`python -m attestation.simulator serve`)."""
        return cls(
            directory / "report",
            directory / "measurements",
            directory / "ccel" / "data",
            timeout_s=timeout_s,
        )

    def resume(self, events: Sequence[RuntimeEvent]) -> int:
        """Adopt those of `events` that an earlier process of this TD boot has measured.

        Returns how many of them, from the first, RTMR3 already holds. Raises `Undecidable`
        `rtmr-moved` when it holds anything else.
        """
        with self._measuring:
            current = self._read_rtmr3()
            firmware = EventLog.parse(_read(self._ccel, limit=MAX_CCEL + 1))
            register = firmware.replay()[3]
            for count in range(len(events) + 1):
                if hmac.compare_digest(register, current):
                    self._events = list(events[:count])
                    return count
                if count < len(events):
                    register = hashlib.sha384(register + events[count].digest).digest()
        raise Undecidable("rtmr-moved", f"RTMR3 holds none of {len(events)} expected states")

    def extend(self, event: RuntimeEvent) -> None:
        """Measure `event` into RTMR3 and remember it for the log.

        Raises `Undecidable` `rtmr-moved` when RTMR3 holds something this process did not measure
        (another process, or an earlier run in the same TD), `rtmr-not-extended` when the register
        does not show the new value in time.
        """
        with self._measuring:
            before = self._read_rtmr3()
            expected = EventLog.parse(self._log()).replay()[3]
            if not hmac.compare_digest(before, expected):
                raise Undecidable(
                    "rtmr-moved", f"RTMR3 differs from the log of {len(self._events)} own events"
                )
            after = hashlib.sha384(before + event.digest).digest()
            try:
                _write(self._rtmr3, event.digest)
            except OSError as error:
                raise _refused(error, self._rtmr3, code="rtmr-not-extended") from None
            self._until(
                lambda: self._read_rtmr3() == after or None,
                deadline=time.monotonic() + self._timeout_s,
                code="rtmr-not-extended",
                why="RTMR3 does not show the event it was extended with",
            )
            self._events.append(event)

    def event_log(self) -> bytes:
        """Return the firmware's events followed by ours, without filler."""
        with self._measuring:
            return self._log()

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote whose REPORT_DATA is exactly `report_data` (64 bytes).

        Raises `Undecidable` `quote-timeout`, `quote-unavailable`, `quote-too-large` or
        `quote-interfered` (somebody else wrote to the request), `NotAuthentic` `quote-report-data`
        when the host answered with another guest's quote, `Malformed` for no quote at all.
        """
        if len(report_data) != 64:
            raise Malformed("field-invalid", f"report data of {len(report_data)} bytes, not 64")
        with self._quoting:
            # A fresh random name: nobody else holds the request open or can guess it.
            entry = self._reports / f"tacit-{secrets.token_hex(16)}"
            try:
                entry.mkdir()
            except OSError as error:
                raise _refused(error, self._reports, code="quote-unavailable") from None
            try:
                quote = self._ask(entry, report_data)
            finally:
                _remove(entry)
        if not hmac.compare_digest(claimed_report_data(quote), report_data):
            raise NotAuthentic("quote-report-data", "the quote does not carry our REPORT_DATA")
        return quote

    def _ask(self, entry: Path, report_data: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        # 1. The kernel shows attributes at once, a simulator a moment later.
        provider = self._attribute(entry / "provider", deadline=deadline)
        if provider.strip() != _PROVIDER:
            raise ConfigError("tdx-provider", "configfs-tsm reports of this machine are not TDX's")
        # 2. `generation` counts the writes; ours must be the only one.
        before = self._generation(entry, deadline=deadline)
        try:
            _write(entry / "inblob", report_data)
            quote = self._attribute(entry / "outblob", deadline=deadline)
        except OSError as error:
            raise _unanswered(error) from None
        after = self._generation(entry, deadline=deadline)
        if after != before + 1:
            raise Undecidable("quote-interfered", f"generation went from {before} to {after}")
        # 3. The answer is the host's.
        if len(quote) > MAX_OUTBLOB:
            raise Undecidable("quote-too-large", f"outblob of more than {MAX_OUTBLOB} bytes")
        return quote

    def _generation(self, entry: Path, *, deadline: float) -> int:
        text = self._attribute(entry / "generation", deadline=deadline).strip()
        if not text.isdigit() or len(text) > 20:
            raise Undecidable("quote-unavailable", "configfs-tsm's generation is not a number")
        return int(text)

    def _attribute(self, path: Path, *, deadline: float) -> bytes:
        return self._until(
            lambda: _read(path, limit=MAX_OUTBLOB + 1) or None,
            deadline=deadline,
            code="quote-timeout",
            why=f"no {path.name} within {self._timeout_s:g} s",
        )

    def _read_rtmr3(self) -> bytes:
        value = _read(self._rtmr3, limit=49)
        if len(value) != 48:
            raise ConfigError("tdx-absent", f"{self._rtmr3} has {len(value)} bytes, not 48")
        return value

    def _log(self) -> bytes:
        """Assemble the log; the firmware's filler would cut it short, so it goes."""
        firmware = _read(self._ccel, limit=MAX_CCEL + 1)
        records = (encode_runtime_event(e.domain, e.operation, e.content) for e in self._events)
        return firmware[: EventLog.parse(firmware).used] + b"".join(records)

    def _until(self, read: Callable[[], T | None], *, deadline: float, code: str, why: str) -> T:
        """Return the first answer of `read`, or refuse when the deadline passes without one."""
        while True:
            answer = read()
            if answer is not None:
                return answer
            if time.monotonic() >= deadline:
                raise Undecidable(code, why)
            time.sleep(_POLL_S)


def _read(path: Path, *, limit: int) -> bytes:
    """Read at most `limit` bytes; a file that is not there yet is empty."""
    # CCEL is readable by root alone on a stock kernel; that is for the operator to settle.
    try:
        with path.open("rb", buffering=0) as file:
            parts = []
            while limit > 0 and (part := file.read(limit)):
                parts.append(part)
                limit -= len(part)
    except FileNotFoundError:
        return b""
    except PermissionError as error:
        raise _refused(error, path, code="tdx-denied") from None
    return b"".join(parts)


def _write(path: Path, data: bytes) -> None:
    """Write `data` at offset 0 in one call, as both interfaces require; never create the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.EIO, "short write")
    finally:
        os.close(descriptor)


def _remove(entry: Path) -> None:
    """Give the request back; configfs removes its attributes with the directory."""
    for _ in range(3):
        try:
            entry.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                return
        else:
            return
        # Only plain directories get here, and only a simulator has those.
        for attribute in entry.iterdir():
            with contextlib.suppress(OSError):
                attribute.unlink()


def _refused(error: OSError, path: Path, *, code: str) -> ConfigError | Undecidable:
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return ConfigError("tdx-denied", f"{path} may not be used ({name})")
    return Undecidable(code, f"{path} cannot be used ({name})")


def _unanswered(error: OSError) -> Undecidable:
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno == errno.EFBIG:
        return Undecidable("quote-too-large", "the kernel's buffer is too small for the quote")
    if error.errno == errno.ETIMEDOUT:
        return Undecidable("quote-timeout", "the host did not answer the kernel in time")
    if error.errno == errno.EWOULDBLOCK:
        return Undecidable("quote-interfered", "the request was changed while it was answered")
    return Undecidable("quote-unavailable", f"the kernel gave no quote ({name})")
