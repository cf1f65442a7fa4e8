"""Attestation reports: one quote at a time, a short queue, and no report for a flood."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from attestation.errors import Refusal
from attestation.types import Nonce, nonce
from server.errors import BadRequest, Overloaded, Unavailable

MAX_WAITING = 16
"""Reports in the queue; a quote takes tens of milliseconds, so the last waits about a second."""

_QUERY = re.compile(rb"nonce=([0-9A-Fa-f]{64})")

log = logging.getLogger("tacit.reports")


def parse_nonce(query: bytes) -> Nonce:
    """Read the query string, which is exactly `nonce=<64 hex>`."""
    found = _QUERY.fullmatch(query)
    if found is None:
        raise BadRequest("nonce-invalid", param="nonce")
    return nonce(bytes.fromhex(found[1].decode()))


class Reports:
    """Serialise `collect`: the quoting service of the host answers one guest request at a time."""

    def __init__(self, collect: Callable[[Nonce], Awaitable[bytes]]) -> None:
        self._collect = collect
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._running: set[asyncio.Task[bytes]] = set()

    async def report(self, asked: Nonce) -> bytes:
        """Return a report for `asked`; raise `Overloaded` or `Unavailable`."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded("report-overloaded", retry_after=2)
        self._waiting += 1
        task = asyncio.ensure_future(self._one(asked))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # shielded: a quote that has begun is finished before the next begins, caller or not
        return await asyncio.shield(task)

    async def _one(self, asked: Nonce) -> bytes:
        try:
            async with self._turn:
                return await self._collect(asked)
        except Refusal as refusal:
            log.error("no evidence", extra={"code": refusal.code})  # noqa: TRY400
            raise Unavailable("attestation-unavailable", retry_after=5) from None
        finally:
            self._waiting -= 1
