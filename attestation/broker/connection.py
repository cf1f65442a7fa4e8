"""One connection of the broker's listeners: HTTP/1.1 with the bounds that uvicorn leaves open.

h11 bounds a request's head to 64 KiB. Here: the time a head takes, connections of one source and
of all, what a peer may still send behind its answer, and a body whose length is said twice.
"""

from __future__ import annotations

import asyncio
from asyncio import Transport
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from attestation.broker.http import error_response
from attestation.broker.rate import source

HEAD_SECONDS = 10
"""Time for the head of one request, and for the first byte after the handshake."""
LINGER_SECONDS = 2
"""How long a peer that was answered before its body ended may go on, so that it can read that."""
PER_SOURCE = 64
"""Connections of one source (`attestation.broker.rate.source`)."""

_PIECE = 16 * 1024
"""Bytes given to h11 at once: it bounds a head that is not whole yet, and takes any that is."""


class Connection(H11Protocol):
    """What uvicorn calls for each connection; at most `Config.limit_concurrency` exist at once.

    Beyond that the one that has waited longest for a head is cut: whoever only holds connections
    makes room for whoever asks.
    """

    source: str
    since: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Count the connection, and expect a head."""
        super().connection_made(transport)
        self.app = _framed_once(self.app)
        self.source = "unknown" if self.client is None else source(self.client[0])
        self.since = self.loop.time()
        self._expect(HEAD_SECONDS)
        others = [each for each in self.connections if isinstance(each, Connection)]
        if sum(each.source == self.source for each in others) > PER_SOURCE:
            self.cut()
        elif self.limit_concurrency is not None and len(others) >= self.limit_concurrency:
            # itself is among them, so there is one
            min((each for each in others if each.waits), key=lambda each: each.since).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; time runs from the first byte of a head to its last."""
        for at in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + _PIECE])
        if self.conn.their_state is not h11.IDLE:
            if not self._answered_early():
                self._settle()
        elif self._timer is None:
            self._expect(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """Keep the connection for the next request, if all of this one came."""
        super().on_response_complete()
        if self._answered_early() and not self.transport.is_closing():
            self._expect(LINGER_SECONDS)

    @property
    def waits(self) -> bool:
        """Whether nothing is being done for it."""
        return self._timer is not None

    def cut(self) -> None:
        """End the connection and count it no more, from this turn of the loop on."""
        self.connections.discard(self)
        self._settle()
        self.transport.abort()

    def _answered_early(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (
            h11.DONE,
            h11.MUST_CLOSE,
        )

    def _expect(self, seconds: float) -> None:
        self._settle()
        self.since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self.cut)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _framed_once(app: ASGIApp) -> ASGIApp:
    """Refuse a body with a length and chunks (RFC 9112 section 6.1): two readers would differ."""

    async def framed(scope: Scope, receive: Receive, send: Send) -> None:
        names: list[Any] = [name for name, _ in scope.get("headers", ())]
        if b"transfer-encoding" in names and b"content-length" in names:
            response = error_response(400, kind="Malformed", code="http-framing")
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        await app(scope, receive, send)

    return framed
