"""Who stalls, floods or asks for too much loses the connection or is told when to come back."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from contextlib import closing

import pytest

from server.listener import Address, listening
from server.schemas.fields import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, MAX_SCHEMA_NODES, MAX_TOOLS
from server.tls import new_tls_identity, server_context
from tests.gateway_kit import NOW, EchoEngine, chat, prepared, running

CONNECTIONS = 4


@pytest.fixture(scope="module")
def gateway():
    with running(prepared()) as served:
        yield served


def test_a_reader_that_stalls_is_cut_and_the_engine_stops():
    words = " ".join(["word"] * 200_000)
    body = json.dumps(chat(stream=True, messages=[{"role": "user", "content": words}])).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer %s\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with running(prepared(request_seconds=1, body_bytes=4 << 20)) as gateway:
        plain = socket.socket()
        # little room here, so that what is not read waits in the gateway
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", gateway.port))
        with closing(gateway.trust().wrap_socket(plain, server_hostname="127.0.0.1")) as sock:
            sock.sendall((head % gateway.api_keys[0]).encode() + body)
            begun = time.monotonic()
            while not gateway.record.events or gateway.engine.open:  # the engine learns it after us
                assert time.monotonic() - begun < 12, "a stalled reader holds its place"
                time.sleep(0.05)
            assert gateway.ready.admission.in_flight == 0
    assert gateway.record.events[0].code in {"request-timeout", "client-gone"}


async def empty(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def answer(reader, writer) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    try:
        return await asyncio.wait_for(reader.read(12), 5)
    except ConnectionError:
        return b""


@pytest.fixture
def both_ends() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    identity = new_tls_identity(NOW, ("gateway.test",))
    trust = ssl.create_default_context(cadata=identity.certificate.decode())
    trust.check_hostname = False
    return server_context(identity, None), trust


async def test_handshakes_that_nobody_finishes_make_room_for_who_asks(both_ends):
    context, trust = both_ends
    address, most = Address("127.0.0.1", 0), 8
    async with listening(empty, address, context=context, handshakes=most) as port:
        held = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(most + 3)]
        asking = await asyncio.open_connection("127.0.0.1", port.port, ssl=trust)
        assert await answer(*asking) == b"HTTP/1.1 204"
        for reader, _ in held[:4]:  # the oldest, and one for who asked
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert not any(reader.at_eof() for reader, _ in held[4:])
        for _, writer in (*held, asking):
            writer.close()


async def test_connections_beyond_the_limit_are_closed_before_they_ask(both_ends):
    context, trust = both_ends
    address = Address("127.0.0.1", 0)
    async with listening(empty, address, context=context, connections=CONNECTIONS) as port:
        opened = [
            await asyncio.open_connection("127.0.0.1", port.port, ssl=trust)
            for _ in range(CONNECTIONS + 2)
        ]
        answers = [await answer(*pair) for pair in opened]
        for _, writer in opened:
            writer.close()
    assert answers == [b"HTTP/1.1 204"] * CONNECTIONS + [b""] * 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_a_full_engine_says_when_to_come_back(status, stream):
    with running(prepared(EchoEngine(status=status))) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(stream=stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "engine-busy")
    assert int(answer.headers["retry-after"]) >= 1


def tool(number: int = 0, **schema) -> dict:
    return {"type": "function", "function": {"name": f"f{number}", "parameters": schema}}


def nested(depth: int) -> dict:
    return {"items": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tools": [tool(number) for number in range(MAX_TOOLS + 1)]}, "too-many"),
        ({"tools": [tool(**nested(MAX_SCHEMA_DEPTH))]}, "schema-too-large"),
        ({"tools": [tool(enum=["x"] * MAX_SCHEMA_NODES)]}, "schema-too-large"),
        ({"tools": [tool(title="x" * MAX_SCHEMA_BYTES)]}, "schema-too-large"),
        ({"stop": ["x"] * 5}, "too-many"),
        ({"n": 9}, "field-invalid"),
    ],
)
def test_more_than_an_engine_should_see_is_refused_by_name(gateway, fields, code):
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(**fields))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert gateway.engine.bodies == []
