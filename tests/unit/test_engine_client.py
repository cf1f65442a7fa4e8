"""The engine client against a server that answers over a real Unix socket, well and badly."""

import asyncio
import contextlib
from contextlib import aclosing

import pytest

from attestation.confidential import Confidential
from server.engine import client as module
from server.engine.client import EngineClient
from server.engine.protocol import EngineBroken, EngineStatus, reason

BODY = Confidential(b'{"prompt":"CANARY"}')
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Wire:
    """Says fixed bytes to whoever connects, and notes when they hang up."""

    def __init__(self, path, *, said=(), stay=False):
        self.path = str(path / "engine.sock")
        self.said = said
        self.stay = stay
        self.requests = []
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        self.connections = 0
        self.sent = 0
        self.answering = set()

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self.answer, self.path)
        return self

    async def __aexit__(self, *failure):
        self.server.close()
        await self.server.wait_closed()
        await asyncio.gather(*self.answering)

    async def answer(self, reader, writer):
        self.connections += 1
        self.answering.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(
                (
                    int(line[15:])
                    for line in head.lower().split(b"\r\n")
                    if b"content-length" in line
                ),
                0,
            )
            self.requests.append(head + await reader.readexactly(size))
            self.asked.set()
            for part in self.said:
                writer.write(part)
                await writer.drain()
                self.sent += 1
            if self.stay:
                await reader.read()
        self.gone.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def wire(tmp_path):
    return lambda *said, stay=False: Wire(tmp_path, said=said, stay=stay)


async def collect(path):
    async with aclosing(EngineClient(path).stream("/v1/x", BODY)) as stream:
        return [event.reveal() async for event in stream]


async def test_events_are_yielded_without_the_end_marker(wire):
    body = (
        chunk(b'data: {"a":1}\n\ndata: {"b"'),
        chunk(b":2}\n\n: alive\n\n"),
        chunk(b"data: [DONE]\n\n"),
    )
    async with wire(OK, *body, chunk(b"")) as engine:
        assert await collect(engine.path) == [b'{"a":1}', b'{"b":2}']


async def test_a_request_carries_its_body_and_no_more_headers_than_http_needs(wire):
    async with wire(OK, chunk(b"data: [DONE]\n\n"), chunk(b"")) as engine:
        await collect(engine.path)
        head, _, body = engine.requests[0].partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert body == BODY.reveal()
    assert names == {b"host", b"content-type", b"content-length", b"connection"}


@pytest.mark.parametrize(
    "said",
    [
        (OK, chunk(b'data: {"a":1}\n\n'), chunk(b"")),
        (OK, chunk(b'data: {"a":1}\n\n')),
        (OK, b"zz\r\nnot chunked"),
        (OK, chunk(b"event: other\ndata: 1\n\n"), chunk(b"")),
        (OK, chunk(b"<html>CANARY</html>\n\n"), chunk(b"")),
        (b"CANARY is not HTTP\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n", OK, chunk(b"data: [DONE]\n\n"), chunk(b"")),
        (b"HTTP/1.1 200 OK\r\n", b"x-filler: CANARY\r\n" * 4096),
        (),
    ],
)
async def test_a_stream_that_ends_early_or_is_none_is_broken(wire, said):
    async with wire(*said) as engine:
        with pytest.raises(EngineBroken) as caught:
            await collect(engine.path)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "CANARY" not in repr(caught.value)


async def test_an_event_that_never_ends_is_broken_before_it_fills_the_memory(wire):
    endless = [chunk(b"data: " + b"x" * 1_000_000)] * 6
    async with wire(OK, *endless, stay=True) as engine:
        with pytest.raises(EngineBroken):
            await collect(engine.path)


async def test_an_early_refusal_of_a_stream_has_its_status(wire):
    said = b"HTTP/1.1 422 X\r\ncontent-length: 6\r\n\r\nCANARY"
    async with wire(said) as engine:
        with pytest.raises(EngineStatus) as caught:
            await collect(engine.path)
    assert caught.value.status == 422


async def test_no_engine_at_all_is_broken(tmp_path):
    client = EngineClient(str(tmp_path / "absent.sock"))
    assert not await client.healthy()
    with pytest.raises(EngineBroken):
        await client.call("/v1/x", BODY)


async def test_a_complete_answer_is_returned_whatever_its_status(wire):
    async with wire(b"HTTP/1.1 503 X\r\ncontent-length: 4\r\n\r\nbusy") as engine:
        answer = await EngineClient(engine.path).call("/v1/x", BODY)
    assert (answer.status, answer.body.reveal()) == (503, b"busy")


async def test_a_cut_answer_is_broken(wire):
    async with wire(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nhalf") as engine:
        with pytest.raises(EngineBroken):
            await EngineClient(engine.path).call("/v1/x", BODY)


async def test_an_answer_over_the_limit_is_broken(wire):
    part = chunk(b"x" * 1024 * 1024)
    count = module.MAX_ANSWER // (1024 * 1024) + 1
    async with wire(OK, *([part] * count), stay=True) as engine:
        with pytest.raises(EngineBroken):
            await EngineClient(engine.path).call("/v1/x", BODY)


async def test_a_redirect_is_not_followed(wire):
    said = b"HTTP/1.1 307 X\r\nlocation: http://other/\r\ncontent-length: 0\r\n\r\n"
    async with wire(said) as engine:
        assert (await EngineClient(engine.path).call("/v1/x", BODY)).status == 307
        assert engine.connections == 1


async def test_closing_a_stream_hangs_up_on_the_engine_at_once(wire):
    async with wire(OK, chunk(b"data: 1\n\n"), stay=True) as engine:
        async with aclosing(EngineClient(engine.path).stream("/v1/x", BODY)) as stream:
            assert (await anext(stream)).reveal() == b"1"
        async with asyncio.timeout(1):
            await engine.gone.wait()


async def test_an_engine_cannot_write_ahead_of_a_reader_without_bound(wire):
    event = chunk(b"data: " + b"x" * 65_536 + b"\n\n")
    async with (
        wire(OK, *([event] * 256), chunk(b"data: [DONE]\n\n")) as engine,
        aclosing(EngineClient(engine.path).stream("/v1/x", BODY)) as stream,
    ):
        await anext(stream)
        await asyncio.sleep(0.3)
        assert engine.sent < 64
        assert sum([1 async for _ in stream]) == 255


async def test_cancelling_a_call_hangs_up_on_the_engine_at_once(wire):
    async with wire(stay=True) as engine:
        calling = asyncio.create_task(EngineClient(engine.path).call("/v1/x", BODY))
        async with asyncio.timeout(5):
            await engine.asked.wait()
        calling.cancel()
        async with asyncio.timeout(1):
            await engine.gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_the_time_limit_of_the_caller_is_not_taken_for_a_broken_engine(wire):
    async with wire(stay=True) as engine:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await EngineClient(engine.path).call("/v1/x", BODY)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"code":"context_length_exceeded"}}', "context_length_exceeded"),
        (b'{"error":{"code":"CANARY"}}', None),
        (b'{"error":{"code":["context_length_exceeded"]}}', None),
        (b'{"error":"context_length_exceeded"}', None),
        (b"context_length_exceeded", None),
        (b"[" * 100_000, None),
    ],
)
def test_only_a_known_reason_of_the_engine_is_passed_on(body, expected):
    assert reason(Confidential(body)) == expected
