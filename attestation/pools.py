"""Bookkeeping of connections per verified session: one live pool, older ones until they idle."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import httpx2

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Pool(Generic[T]):
    """Connections that only one attested key completes."""

    connections: T
    ends: datetime
    """When the affirmation ends; no request starts on these connections then."""
    in_use: int = field(default=0, init=False)
    """Requests whose answer has not ended."""


class Pools(Generic[T]):
    """Lends the live pool; the lock guards counts and is never held while anything waits."""

    def __init__(self, live: Pool[T]) -> None:
        self._lock = threading.Lock()
        self._live = live
        self._old: list[Pool[T]] = []

    def lend(self, now: datetime, *, stale: Pool[T] | None) -> Pool[T] | None:
        """Lend the live pool; nothing when it has ended or is `stale`: attest again, `renew`."""
        with self._lock:
            if now >= self._live.ends or self._live is stale:
                return None
            self._live.in_use += 1
            return self._live

    def renew(self, pool: Pool[T]) -> Pool[T]:
        """Make `pool` the live one and lend it."""
        pool.in_use = 1
        with self._lock:
            self._old.append(self._live)
            self._live = pool
        return pool

    def give_back(self, pool: Pool[T]) -> list[T]:
        """End one use; return the old connections nobody uses any more, for the caller to close."""
        with self._lock:
            pool.in_use -= 1
            idle = [old.connections for old in self._old if old.in_use == 0]
            self._old = [old for old in self._old if old.in_use > 0]
            return idle

    def all(self) -> list[T]:
        """Return the connections of every pool."""
        with self._lock:
            return [pool.connections for pool in (self._live, *self._old)]


class Answer(httpx2.SyncByteStream):
    """The body of an answer, which says once when it ends."""

    def __init__(self, stream: httpx2.SyncByteStream, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        """Pass the body on."""
        return iter(self._stream)

    def close(self) -> None:
        """Close the body, whether or not it was read."""
        if self._open:
            self._open = False
            try:
                self._stream.close()
            finally:
                self._ended()


class AsyncAnswer(httpx2.AsyncByteStream):
    """`Answer` for asyncio."""

    def __init__(
        self, stream: httpx2.AsyncByteStream, ended: Callable[[], Awaitable[None]]
    ) -> None:
        self._stream = stream
        self._ended = ended
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pass the body on."""
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        """Close the body, whether or not it was read."""
        if self._open:
            self._open = False
            try:
                await self._stream.aclose()
            finally:
                await self._ended()
