"""Attestation reports in, the moments at which the statements stapled to them first end out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import Refusal
from attestation.gpu.evidence import GpuEndorsements
from attestation.gpu.ocsp import Responses
from attestation.report import Report
from attestation.tdx.stated import claimed_end
from attestation.types import Nonce


@dataclass(frozen=True, slots=True)
class Ends:
    """When the first statement of each vendor ends, None where none is stapled."""

    intel: datetime | None = None
    nvidia: datetime | None = None
    """Of its OCSP responses, which alone have a date to be renewed by."""


@dataclass(slots=True)
class Stapled:
    """Collects reports for clients and remembers the last. Parsed when asked, not per report."""

    collect: Callable[[Nonce], Awaitable[bytes]]
    _last: bytes | None = None
    _ends: Ends = Ends()

    async def report(self, nonce: Nonce) -> bytes:
        """Return what `collect` makes for `nonce`; raises what it raises."""
        self._last = report = await self.collect(nonce)
        return report

    async def ends(self) -> Ends:
        """Return the ends of the last report, of none before there was one."""
        last, self._last = self._last, None
        if last is not None:
            self._ends = await asyncio.to_thread(_ends, last)
        return self._ends


def _ends(report: bytes) -> Ends:
    try:
        stapled = Report.parse(report).stapled
        if stapled is None:
            return Ends()
        responses = Responses.parse(GpuEndorsements.parse(stapled.gpu).ocsp)
        return Ends(claimed_end(stapled.tdx), responses.claimed_end())
    except Refusal:  # what clients refuse too, so there is no end to tell
        return Ends()
