"""Pooling: one request for vectors or a ranking in, one answer in numbers out."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from server import exchange
from server.disconnect import until_gone
from server.errors import BadRequest, EngineFailed, TimedOut
from server.onion import respond
from server.ready import Ready
from server.schemas.answers import BadAnswer, Rebuilt, Stamp
from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.pooling_answers import rebuild
from server.schemas.requests import parse
from server.serving import GRACE_SECONDS, Salt, asked, read_json, served

_SPECIAL_TOKENS = 8
"""More than what a tokenizer puts around one input by itself."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """One route that answers each input with numbers: parse, admit, ask, rebuild."""

    ready: Ready
    kind: type[EmbeddingsRequest | RerankRequest]
    prefix: str
    """How ids of this route begin, where its answers have one."""
    salt: Salt = field(default_factory=Salt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the engine is told when the client goes away."""
        with self.ready.admission.place():
            work = self._answer(scope, await self._request(scope, receive), send)
            seconds = self.ready.limits.request_seconds + GRACE_SECONDS
            try:
                await until_gone(receive, work, seconds=seconds)
            except TimeoutError:
                raise TimedOut("request-timeout") from None

    async def _request(self, scope: Scope, receive: Receive) -> EmbeddingsRequest | RerankRequest:
        sent = await read_json(scope, receive)
        return parse(self.kind, sent.reveal(), limit=self.ready.limits.body_bytes)

    async def _answer(
        self, scope: Scope, request: EmbeddingsRequest | RerankRequest, send: Send
    ) -> None:
        seen = exchange.of(scope)
        model = served(self.ready, scope, name=request.model, task=request.task)
        seen.model = request.model
        if request.prompts > model.max_queued:
            raise BadRequest("batch-too-large")
        body = request.engine_body(self.salt.target(request.model, model, seen))
        # every token of a byte-level BPE is at least one byte, every token id a digit
        written = len(body.reveal()) + request.prompts * _SPECIAL_TOKENS
        exchange.allowance(scope).reserve(min(written, request.prompts * model.max_model_len))
        seconds = self.ready.limits.request_seconds
        found = await asked(
            model, request.engine_path, body, seconds=seconds, code="vectors-refused"
        )
        stamp = Stamp(
            id=f"{self.prefix}-{secrets.token_hex(16)}",
            model=request.model,
            created=int(self.ready.clock().timestamp()),
        )
        try:
            # beside the event loop: thousands of vectors would hold up everybody's streams
            answer = await asyncio.to_thread(rebuild, found, stamp, request=request)
        except BadAnswer:
            raise EngineFailed("engine-failed") from None
        _count(answer, seen)
        await respond(send, 200, answer.json.reveal())


def _count(answer: Rebuilt, seen: exchange.Exchange) -> None:
    if answer.usage is not None:
        seen.input_tokens = answer.usage.input_tokens
        seen.output_tokens = answer.usage.output_tokens
