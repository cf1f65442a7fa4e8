"""A software TD in memory: launch values and events in, signed evidence of genuine form out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from attestation.binding import Binding, report_data
from attestation.evidence import Evidence
from attestation.simulator.firmware import CCEL_SIZE, boot_events, encode_log
from attestation.simulator.intel import (
    GENUINE,
    GENUINE_ENCLAVE,
    MockIntel,
    QuotingEnclave,
    Statements,
)
from attestation.simulator.statements import TDX_SVNS
from attestation.tdx.claims import TdReport
from attestation.tdx.eventlog import EventLog, RuntimeEvent, encode_runtime_event
from attestation.tdx.layout import V4, Header
from attestation.types import Endorsements

SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
DEBUG = 0x01
XFAM = bytes.fromhex("e702060000000000")
"""x87, SSE, AVX, AVX-512, PKRU, CET and AMX: what a Sapphire Rapids server grants."""

FIRMWARE_EVENTS = boot_events(
    kernel="simulated linux 6.18", command_line="root=/dev/vda1 ro console=hvc0"
)


def _measured(what: str) -> bytes:
    return hashlib.sha384(b"simulated " + what.encode()).digest()


LAUNCH = TdReport(
    mrtd=_measured("OVMF"),
    rtmrs=EventLog(FIRMWARE_EVENTS, 0).replay(),
    mr_config_id=bytes(48),
    mr_owner=bytes(48),
    mr_owner_config=bytes(48),
    mr_seam=_measured("TDX module 1.5"),
    mr_signer_seam=bytes(48),
    mr_service_td=bytes(48),
    seam_attributes=bytes(8),
    td_attributes=SEPT_VE_DISABLE,
    xfam=XFAM,
    report_data=bytes(64),
    tee_tcb_svn=bytes(TDX_SVNS),
    tee_tcb_svn2=None,
)
"""A production TD of the simulated image, as the TDX module reports it once Linux runs."""

_RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")


class SoftwareGuest:
    """One boot of a TD: registers that only extend, an event log, and quotes over both."""

    def __init__(
        self,
        intel: MockIntel,
        *,
        measurements: Mapping[str, bytes] = MappingProxyType({}),
        attributes: bytes = SEPT_VE_DISABLE,
        xfam: bytes = XFAM,
        mr_config_id: bytes = bytes(48),
        debug: bool = False,
        header: Header = V4,
        enclave: QuotingEnclave = GENUINE_ENCLAVE,
        state: Statements = GENUINE,
    ) -> None:
        """Launch a TD; `measurements` replaces fields of the report by name, or rtmr0..rtmr3.

        A register replaced here no longer agrees with the log: that is how a liar is made.
        `state` is what Intel states about the platform, used by `endorsements`.
        """
        self.intel = intel
        self._header = header
        self._enclave = enclave
        self._state = state
        if debug:
            attributes = bytes([attributes[0] | DEBUG]) + attributes[1:]
        fields: Mapping[str, Any] = {n: v for n, v in measurements.items() if n not in _RTMRS}
        launched = replace(LAUNCH, td_attributes=attributes, xfam=xfam, mr_config_id=mr_config_id)
        self._report = replace(launched, **fields)
        for index, name in enumerate(_RTMRS):
            if name in measurements:
                self._set_rtmr(index, measurements[name])
        self._runtime: list[RuntimeEvent] = []

    @property
    def report(self) -> TdReport:
        """The TD report now, with REPORT_DATA zero."""
        return self._report

    @property
    def runtime_events(self) -> tuple[RuntimeEvent, ...]:
        """The events extended into RTMR3 since launch."""
        return tuple(self._runtime)

    def extend(self, event: RuntimeEvent) -> None:
        """Measure `event` into RTMR3 and log it."""
        self.extend_register(3, event.digest)
        self._runtime.append(event)

    def extend_register(self, rtmr: int, digest: bytes) -> None:
        """Extend an RTMR with 48 bytes, as TDG.MR.RTMR.EXTEND does; nothing is logged."""
        if len(digest) != 48:
            raise ValueError(f"digest of {len(digest)} bytes, not 48")
        self._set_rtmr(rtmr, hashlib.sha384(self._report.rtmrs[rtmr] + digest).digest())

    def firmware_log(self) -> bytes:
        """Return the CCEL log area as ACPI shows it: firmware events, then 0xFF."""
        return encode_log(FIRMWARE_EVENTS).ljust(CCEL_SIZE, b"\xff")

    def event_log(self) -> bytes:
        """Return firmware and runtime events in one log, without filler."""
        runtime = (encode_runtime_event(e.domain, e.operation, e.content) for e in self._runtime)
        return encode_log(FIRMWARE_EVENTS) + b"".join(runtime)

    def quote(self, report_data: bytes) -> bytes:
        """Return a signed quote that commits to 64 bytes of `report_data`."""
        report = replace(self._report, report_data=report_data)
        return self.intel.quote(report, header=self._header, enclave=self._enclave)

    def evidence(self, binding: Binding, *, gpu: bytes = b"") -> Evidence:
        """Return evidence whose quote commits to `binding`, the log and the GPU evidence set."""
        log = self.event_log()
        data = report_data(binding, event_log=log, gpu_evidence=gpu)
        return Evidence(self.quote(data), log, gpu, binding)

    def endorsements(self, now: datetime | None = None) -> Endorsements:
        """Return Intel's statements signed at `now`, by default when the hierarchy was created."""
        return Endorsements(self.intel.collateral(now, state=self._state))

    def _set_rtmr(self, index: int, value: bytes) -> None:
        before = self._report.rtmrs
        rtmrs = tuple(value if i == index else old for i, old in enumerate(before))
        self._report = replace(self._report, rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]))
