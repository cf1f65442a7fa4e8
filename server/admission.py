"""Admission: how many generations run at once, and whether new ones may begin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Overloaded, Unavailable


class Admission:
    """Count the requests in flight; refuse more than `limit`, and all new ones while draining."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place, or raise `Overloaded` or `Unavailable`."""
        if self.draining:
            raise Unavailable("draining", retry_after=1)
        if self.in_flight >= self.limit:
            raise Overloaded("overloaded", retry_after=1)
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    def drain(self) -> None:
        """Refuse new requests from now on; those in flight go on."""
        self.draining = True

    async def idle(self, *, seconds: float) -> bool:
        """Wait until nothing is in flight, at most `seconds`; say whether that was reached."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
