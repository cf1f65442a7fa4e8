"""HTTP to an engine's Unix socket: confidential bytes in, one answer or event payloads out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp

from attestation.confidential import Confidential
from server.engine.events import Done, Events, NotEvents
from server.engine.protocol import EngineAnswer, EngineBroken, EngineStatus

MAX_ANSWER = 64 * 1024 * 1024
"""Largest complete answer, in bytes: a full context with 20 log-probabilities a token."""
_CONNECT_SECONDS = 5
_HEALTH_SECONDS = 5
_FAILURES = (aiohttp.ClientError, ConnectionError, NotEvents, TimeoutError)


class EngineClient:
    """An `Engine` behind the socket at `path`. Use it as an asynchronous context manager.

    Each request has its own connection. Reusing one would race with the engine closing it, and
    closing it is what aborts a generation. How long an answer may take is the caller's decision.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            "http://engine",
            connector=aiohttp.UnixConnector(self._path, limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"content-type": "application/json"},
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._opened().close()

    async def call(self, path: str, body: Confidential[bytes]) -> EngineAnswer:
        """POST `body` to `path` and return the whole answer, whatever its status."""
        async with _broken_from_anything(), self._post(path, body) as response:
            return EngineAnswer(response.status, await _whole(response))

    async def stream(
        self, path: str, body: Confidential[bytes]
    ) -> AsyncGenerator[Confidential[bytes], None]:
        """POST `body` to `path` and yield the payload of each event until `[DONE]`."""
        async with _broken_from_anything(), self._post(path, body) as response:
            if response.status != 200:
                raise EngineStatus(response.status, await _whole(response))
            events = Events()
            async for part in response.content.iter_any():
                for event in events.feed(part):
                    if isinstance(event, Done):
                        return
                    yield event
            raise EngineBroken

    async def healthy(self) -> bool:
        """Tell whether the engine answers `GET /health` with 200 within some seconds."""
        try:
            async with (
                asyncio.timeout(_HEALTH_SECONDS),
                self._opened().get("/health", allow_redirects=False) as response,
            ):
                return response.status == 200
        except _FAILURES:
            return False

    async def metrics(self) -> bytes:
        """Return what `GET /metrics` answers; raise `EngineBroken` when that is not 200."""
        async with (
            _broken_from_anything(),
            self._opened().get("/metrics", allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise EngineBroken
            return (await _whole(response)).reveal()

    @contextlib.asynccontextmanager
    async def _post(
        self, path: str, body: Confidential[bytes]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._opened().post(path, data=body.reveal(), allow_redirects=False)
        try:
            yield response
        finally:
            response.close()  # not release(): an unread rest would keep the engine generating

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open")
        return self._session


@contextlib.asynccontextmanager
async def _broken_from_anything() -> AsyncIterator[None]:
    try:
        yield
    except _FAILURES:
        raise EngineBroken from None  # the cause may quote the answer


async def _whole(response: aiohttp.ClientResponse) -> Confidential[bytes]:
    parts = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER:
            raise EngineBroken
        parts.append(part)
    return Confidential(b"".join(parts))
