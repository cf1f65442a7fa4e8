"""A chat endpoint in, streams held against it, the tokens' and the first tokens' times out."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field

import aiohttp
import uvloop

_PROMPT = "Request {number}. What does Tacit keep of my prompt?"
_CONNECT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint and what it asks of its clients."""

    url: str
    model: str
    api_key: str = "none"
    trust: ssl.SSLContext | None = None
    """None where the endpoint speaks plain HTTP."""


@dataclass(slots=True)
class Load:
    """What was seen of one load."""

    tokens: int
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    """Seconds from sending a request to its first event, of each request."""

    @property
    def per_token(self) -> float:
        """Seconds of the whole load for each token of it."""
        return self.seconds / self.tokens


def load(target: Target, *, streams: int, requests: int, tokens: int, first: int) -> Load:
    """Send `requests` streamed chats, `streams` at a time, each of exactly `tokens` tokens.

    `first` numbers the first request: equal numbers are equal prompts. Raises `RuntimeError` when
    an answer is not whole.
    """
    return uvloop.run(_load(target, streams, range(first, first + requests), tokens))


async def _load(target: Target, streams: int, numbers: range, tokens: int) -> Load:
    waiting = iter(numbers)
    seen = Load(tokens=len(numbers) * tokens)
    connector = aiohttp.TCPConnector(limit=0, ssl=target.trust or False)
    headers = {"authorization": f"Bearer {target.api_key}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(
        target.url, connector=connector, headers=headers, timeout=timeout
    ) as session:

        async def one() -> None:
            for number in waiting:
                seen.first.append(await _answer(session, target.model, number, tokens))

        # a short answer on each connection first: the SDK's client keeps them, and processes that
        # were idle have to find their memory again
        early = range(-streams, 0)
        await asyncio.gather(*(_answer(session, target.model, number, 1) for number in early))
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(one())
        seen.seconds = time.perf_counter() - begun
    return seen


async def _answer(session: aiohttp.ClientSession, model: str, number: int, tokens: int) -> float:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _PROMPT.format(number=number)}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun = time.perf_counter()
    first, end = None, b""
    async with session.post("/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"the endpoint answered {response.status}")
        async for part in response.content.iter_any():
            if first is None:
                first = time.perf_counter()
            end = (end + part)[-512:]
    if first is None or b'"completion_tokens":%d' % tokens not in end or b"[DONE]" not in end:
        raise RuntimeError("an answer was not whole")
    return first - begun
