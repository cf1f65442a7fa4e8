"""HTTP/1.1 on an engine's Unix socket: one request out, the status and body of its answer in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import httptools

from server.engine.protocol import EngineBroken

_CONNECT_SECONDS = 5
_MAX_HEADERS = 32 * 1024
"""Names and values of an answer's headers together, in bytes; the parser itself has no bound."""
_MAX_HELD = 256 * 1024
"""Bytes of a body that are held before nothing more is read until somebody takes them."""


@contextlib.asynccontextmanager
async def exchange(path: str, *request: bytes) -> AsyncIterator[Answer]:
    """Send `request` on a new connection to the socket at `path`; hang up at the end of the block.

    Raises `EngineBroken` when nothing accepts the connection within some seconds.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            transport, answer = await loop.create_unix_connection(lambda: Answer(request), path)
    except OSError:
        raise EngineBroken from None
    try:
        yield answer
    finally:
        transport.abort()  # whatever was not read: only hanging up ends a generation


class Answer(asyncio.Protocol):
    """One answer as it comes. A connection that is lost before its end is `EngineBroken`."""

    def __init__(self, request: tuple[bytes, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._headers = 0
        self._status = 0
        self._parts: list[bytes] = []
        self._held = 0
        self._whole = False
        self._news: asyncio.Future[None] | None = None

    async def status(self) -> int:
        """Return the status, once the headers came."""
        while not self._status:
            await self._more()
        return self._status

    async def part(self) -> bytes:
        """Return what came of the body since the last call, at least a byte, or b"" at its end."""
        while not self._parts and not self._whole:
            await self._more()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._held > _MAX_HELD and self._parser is not None:
            self._transport.resume_reading()
        self._held = 0
        return part

    async def _more(self) -> None:
        if self._parser is None:
            raise EngineBroken
        self._news = self._loop.create_future()
        await self._news

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.writelines(self._request)
        self._request = ()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and wake whoever waits for it."""
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # also what the methods below raise
            self._end()
        if self._held > _MAX_HELD:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits: nothing more comes."""
        del exc
        self._end()
        self._wake()

    def _end(self) -> None:
        # the parser refers to this object, and what it holds must not wait for a collector
        self._parser = None
        self._transport.abort()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # -- what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes; no header of an engine matters beside what the parser knows."""
        self._headers += len(name) + len(value)
        if self._headers > _MAX_HEADERS:
            raise EngineBroken

    def on_headers_complete(self) -> None:
        """Take the status; an interim answer was not asked for."""
        status = 0 if self._parser is None else self._parser.get_status_code()
        if self._status or status < 200:
            raise EngineBroken
        self._status = status

    def on_body(self, body: bytes) -> None:
        """Hold a part of the body."""
        self._parts.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        """Note that the body is whole."""
        self._whole = True
