"""Attestation reports in, the moment at which the first of Intel's stapled statements ends out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import Refusal
from attestation.report import Report
from attestation.tdx.stated import claimed_end
from attestation.types import Nonce


@dataclass(slots=True)
class Stapled:
    """Collects reports for clients and remembers the last. Parsed when asked, not per report."""

    collect: Callable[[Nonce], Awaitable[bytes]]
    _last: bytes | None = None
    _ends: datetime | None = None

    async def report(self, nonce: Nonce) -> bytes:
        """Return what `collect` makes for `nonce`; raises what it raises."""
        self._last = report = await self.collect(nonce)
        return report

    async def ends(self) -> datetime | None:
        """Return the end, None before there was a report or where it had no collateral."""
        last, self._last = self._last, None
        if last is not None:
            self._ends = await asyncio.to_thread(_end, last)
        return self._ends


def _end(report: bytes) -> datetime | None:
    try:
        stapled = Report.parse(report).stapled
        return None if stapled is None else claimed_end(stapled.tdx)
    except Refusal:  # what clients refuse too, so there is no end to tell
        return None
