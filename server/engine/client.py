"""Requests to an engine's Unix socket: confidential bytes in, one answer or event payloads out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

from attestation.confidential import Confidential
from server.engine.events import Done, Events, NotEvents
from server.engine.protocol import EngineAnswer, EngineBroken, EngineStatus
from server.engine.wire import Answer, exchange

MAX_ANSWER = 64 * 1024 * 1024
"""Largest complete answer, in bytes: a full context with 20 log-probabilities a token."""
_HEALTH_SECONDS = 5
_GET = b"GET %s HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n"
_POST = (
    b"POST %s HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
)


class EngineClient:
    """An `Engine` behind the socket at `path`.

    Each request has its own connection. Reusing one would race with the engine closing it, and
    closing it is what aborts a generation. How long an answer may take is the caller's decision.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def call(self, path: str, body: Confidential[bytes]) -> EngineAnswer:
        """POST `body` to `path` and return the whole answer, whatever its status."""
        async with self._post(path, body) as answer:
            return EngineAnswer(await answer.status(), await _whole(answer))

    async def stream(
        self, path: str, body: Confidential[bytes]
    ) -> AsyncGenerator[Confidential[bytes], None]:
        """POST `body` to `path` and yield the payload of each event until `[DONE]`."""
        async with self._post(path, body) as answer:
            if (status := await answer.status()) != 200:
                raise EngineStatus(status, await _whole(answer))
            events = Events()
            while part := await answer.part():
                try:
                    for event in events.feed(part):
                        if isinstance(event, Done):
                            return
                        yield event
                except NotEvents:
                    raise EngineBroken from None
            raise EngineBroken

    async def healthy(self) -> bool:
        """Tell whether the engine answers `GET /health` with 200 within some seconds."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS), self._get(b"/health") as answer:
                return await answer.status() == 200
        except (EngineBroken, TimeoutError):
            return False

    async def metrics(self) -> bytes:
        """Return what `GET /metrics` answers; raise `EngineBroken` when that is not 200."""
        async with self._get(b"/metrics") as answer:
            if await answer.status() != 200:
                raise EngineBroken
            return (await _whole(answer)).reveal()

    def _get(self, path: bytes) -> AbstractAsyncContextManager[Answer]:
        return exchange(self._path, _GET % path)

    def _post(self, path: str, body: Confidential[bytes]) -> AbstractAsyncContextManager[Answer]:
        sent = body.reveal()
        return exchange(self._path, _POST % (path.encode(), len(sent)), sent)


async def _whole(answer: Answer) -> Confidential[bytes]:
    parts = []
    size = 0
    while part := await answer.part():
        size += len(part)
        if size > MAX_ANSWER:
            raise EngineBroken
        parts.append(part)
    return Confidential(b"".join(parts))
