"""TLS in, a Unix socket out: the gateway and its real engine client, around an HTTP engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from aiohttp import web

from attestation.confidential import Confidential
from server.engine.client import EngineClient
from tests.gateway_kit import EchoEngine, chat, prepared, running

PATHS = ("/v1/chat/completions", "/v1/completions")


@dataclass
class HttpEngine:
    """The echo engine as an HTTP server on a socket, counting who hung up on it."""

    words: EchoEngine
    headers: list[dict] = field(default_factory=list)
    left: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        body = Confidential(await request.read())
        try:
            if json.loads(body.reveal()).get("stream"):
                return await self._events(request, body)
            found = await self.words.call(request.path, body)
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        return web.Response(status=found.status, body=found.body.reveal())

    async def _events(self, request, body):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async for frame in self.words.stream(request.path, body):
            await response.write(b"data: " + frame.reveal() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@contextlib.contextmanager
def listening(engine: HttpEngine) -> Iterator[Path]:
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main(path: Path) -> None:
        app = web.Application()
        app.add_routes([web.post(path, engine.answer) for path in PATHS])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        started.set()
        await stop.wait()
        await runner.cleanup()

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "engine.sock")
        thread = threading.Thread(target=lambda: loop.run_until_complete(main(path)))
        thread.start()
        assert started.wait(10)
        try:
            yield path
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_crosses_both_hops_and_no_client_header_does(stream):
    engine = HttpEngine(EchoEngine())
    with (
        listening(engine) as path,
        running(prepared(EngineClient(str(path)))) as gateway,
        gateway.client() as client,
    ):
        headers = {
            "authorization": f"Bearer {gateway.api_keys[0]}",
            "x-request-id": "CANARY",
            "cookie": "CANARY=1",
            "user-agent": "CANARY",
        }
        answer = client.post("/v1/chat/completions", json=chat(stream=stream), headers=headers)
    assert answer.status_code == 200
    assert "hello" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n") == stream
    seen = {name.lower(): value for name, value in engine.headers[0].items()}
    assert "CANARY" not in str(seen)
    assert "authorization" not in seen


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_on_the_gateway_hangs_up_on_the_engine(stream):
    engine = HttpEngine(EchoEngine(delay=0.05 if stream else 30))
    words = [{"role": "user", "content": " ".join(["word"] * 1000)}]
    with listening(engine) as path, running(prepared(EngineClient(str(path)))) as gateway:
        with gateway.client() as client:
            if stream:
                body = chat(stream=True, messages=words)
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    next(answer.iter_bytes())
            else:
                with pytest.raises(httpx2.ReadTimeout):
                    client.post("/v1/chat/completions", json=chat(), timeout=1)
        ends = time.monotonic() + 1
        while not engine.left and time.monotonic() < ends:
            time.sleep(0.01)
        assert engine.left == 1


def test_an_engine_that_is_gone_is_a_bad_gateway():
    with (
        running(prepared(EngineClient("/nonexistent/engine.sock"))) as gateway,
        gateway.client() as client,
    ):
        for stream in (False, True):
            answer = client.post("/v1/chat/completions", json=chat(stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine-failed")
