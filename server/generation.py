"""Generation: one request body in, one answer or a stream of server-sent events out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Receive, Scope, Send

from attestation.confidential import Confidential
from server import exchange
from server.disconnect import until_gone
from server.engine.protocol import EngineBroken, EngineStatus, said_status
from server.errors import EngineFailed, Rejected, TimedOut
from server.exchange import Exchange
from server.onion import respond
from server.ready import Ready, ServedModel
from server.schemas.answers import BadAnswer, Rebuilt, Stamp, rebuild
from server.schemas.requests import ChatRequest, CompletionRequest, parse
from server.schemas.responses import ResponsesRequest
from server.serving import GRACE_SECONDS, Salt, asked, read_json, refuse, served

_DONE = b"data: [DONE]\n\n"
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]

_TEMPLATE_BYTES = 2048
"""More than what Qwen3's templates write around the messages and tools of one prompt."""

Frames = AsyncGenerator[Confidential[bytes], None]
Request = ChatRequest | CompletionRequest | ResponsesRequest


class Rebuilder(Protocol):
    """Rebuilds one answer or event of a route from what the engine sent."""

    def __call__(self, data: Confidential[bytes], stamp: Stamp, *, with_usage: bool) -> Rebuilt:
        """Return what the client gets, or raise `BadAnswer`."""
        ...


@dataclass(frozen=True, slots=True)
class Generation:
    """One generating route: parse, admit, rebuild for the engine, rebuild for the client."""

    ready: Ready
    kind: type[Request]
    path: str
    prefix: str
    """How ids of this route begin (`chatcmpl-…`, `cmpl-…`, `resp-…`)."""
    rebuild: Rebuilder = field(default=rebuild, kw_only=True)
    salt: Salt = field(default_factory=Salt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the engine is aborted when the client goes away."""
        seen = exchange.of(scope)
        with self.ready.admission.place():
            sent = await read_json(scope, receive)
            request = parse(self.kind, sent.reveal(), limit=self.ready.limits.body_bytes)
            model = served(self.ready, scope, name=request.model, task="generate")
            seen.model, seen.stream = request.model, bool(request.stream)
            body = request.engine_body(self.salt.target(request.model, model, seen))
            exchange.allowance(scope).reserve(_most(request, body, model))
            turn = _Turn(
                model,
                self.path,
                body,
                Stamp(
                    id=f"{self.prefix}-{secrets.token_hex(16)}",
                    model=request.model,
                    created=int(self.ready.clock().timestamp()),
                ),
                seen,
                self.rebuild,
                wants_usage=not request.stream or request.wants_usage,
                seconds=self.ready.limits.request_seconds,
            )
            work = turn.stream(send) if request.stream else turn.answer(send)
            try:
                await until_gone(receive, work, seconds=turn.seconds + GRACE_SECONDS)
            except TimeoutError:
                raise TimedOut("request-timeout") from None


@dataclass(frozen=True, slots=True)
class _Turn:
    model: ServedModel
    path: str
    body: Confidential[bytes]
    stamp: Stamp
    seen: Exchange
    rebuild: Rebuilder
    wants_usage: bool = field(kw_only=True)
    seconds: float = field(kw_only=True)

    async def answer(self, send: Send) -> None:
        """Send one complete answer."""
        found = await asked(
            self.model, self.path, self.body, seconds=self.seconds, code="engine-refused"
        )
        try:
            answer = self._rebuilt(found)
        except BadAnswer:
            raise EngineFailed("engine-failed") from None
        await respond(send, 200, answer.json.reveal())

    async def stream(self, send: Send) -> None:
        """Send events; the status waits for the first, so early refusals have their own."""
        async with aclosing(self.model.engine.stream(self.path, self.body)) as frames:
            ends = asyncio.get_running_loop().time() + self.seconds
            first = await self._first(frames, ends)
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            last = _DONE
            try:
                await self._event(send, first)
                async with asyncio.timeout_at(ends):
                    async for frame in frames:
                        found = self._rebuilt(frame)
                        if found.last:
                            last = _framed(found)
                            break
                        await self._event(send, found)
            except (EngineBroken, EngineStatus, BadAnswer):
                last = self._failure(EngineFailed("engine-failed"))
            except TimeoutError:
                last = self._failure(TimedOut("request-timeout"))
            await send({"type": "http.response.body", "body": last})

    async def _first(self, frames: Frames, ends: float) -> Rebuilt:
        try:
            async with asyncio.timeout_at(ends):
                first = await anext(frames)
            if (status := said_status(first)) is not None:
                refuse(status, first, code="engine-refused")
            return self._rebuilt(first)
        except EngineStatus as refusal:
            refuse(refusal.status, refusal.body, code="engine-refused")
        except TimeoutError:
            raise TimedOut("request-timeout") from None
        except (EngineBroken, BadAnswer, StopAsyncIteration):
            raise EngineFailed("engine-failed") from None

    async def _event(self, send: Send, found: Rebuilt) -> None:
        if event := _framed(found):
            await send({"type": "http.response.body", "body": event, "more_body": True})

    def _failure(self, failure: Rejected) -> bytes:
        self.seen.code = failure.code
        return b"data: " + failure.body() + b"\n\n"

    def _rebuilt(self, data: Confidential[bytes]) -> Rebuilt:
        found = self.rebuild(data, self.stamp, with_usage=self.wants_usage)
        if found.usage is not None:
            self.seen.input_tokens = found.usage.input_tokens
            self.seen.output_tokens = found.usage.output_tokens
        return found


def _framed(found: Rebuilt) -> bytes:
    data = found.json.reveal()
    if not data:
        return b""
    name = b"event: " + found.event + b"\n" if found.event else b""
    return name + b"data: " + data + b"\n\n"


def _most(request: Request, body: Confidential[bytes], model: ServedModel) -> int:
    """Return the most tokens that prompt and answers can have together.

    Every token of a byte-level BPE is at least one byte, so a prompt has no more tokens than its
    text and the template's words have bytes.
    """
    context = model.max_model_len
    prompts, answers = request.prompts, request.prompts * (request.n or 1)
    written = len(body.reveal()) + prompts * _TEMPLATE_BYTES
    limit = request.output_limit
    output = context if limit is None else min(limit, context)
    return min(written, prompts * context) + answers * output
