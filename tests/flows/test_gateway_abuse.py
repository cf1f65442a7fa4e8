"""Clients that hang up, dawdle, flood or send nonsense, over real TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from contextlib import closing, suppress

import httpx2
import pytest

from attestation.errors import Undecidable
from server.listener import MAX_HEADER_BYTES
from tests.gateway_kit import EchoEngine, Gateway, chat, prepared, running


@pytest.fixture(scope="module")
def gateway():
    with running(prepared()) as served:
        yield served


def wait_for(condition, *, seconds: float) -> float:
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - begun


def raw(gateway: Gateway) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    return gateway.trust().wrap_socket(plain, server_hostname="127.0.0.1")


def everything(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def post_head(gateway: Gateway, *lines: str) -> bytes:
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {gateway.api_keys[0]}",
        "content-type: application/json",
        *lines,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_aborts_the_engine_within_a_second(stream):
    words = " ".join(["word"] * 1000)
    body = json.dumps(chat(stream=stream, messages=[{"role": "user", "content": words}])).encode()
    with running(prepared(EchoEngine(delay=0.05 if stream else 15))) as gateway:
        with closing(raw(gateway)) as sock:
            sock.sendall(post_head(gateway, f"content-length: {len(body)}") + body)
            if stream:
                sock.recv(1024)
            wait_for(lambda: gateway.engine.open == 1, seconds=5)
        wait_for(lambda: gateway.engine.aborted == 1, seconds=1)
        wait_for(lambda: gateway.record.events, seconds=1)
        assert gateway.ready.admission.in_flight == 0
    assert (gateway.record.events[0].status, gateway.record.events[0].code) == (499, "client-gone")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_is_cut(chunked):
    with running(prepared(read_seconds=1)) as gateway, closing(raw(gateway)) as sock:
        framing = "transfer-encoding: chunked" if chunked else "content-length: 1000"
        sock.sendall(post_head(gateway, framing))
        begun = time.monotonic()
        for _ in range(4):
            sock.sendall(b"1\r\n{\r\n" if chunked else b"{")
            time.sleep(0.1)
        answer = everything(sock)
        assert time.monotonic() - begun < 3
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body-too-slow" in answer


def fill_headers(sock: socket.socket) -> None:
    sock.sendall(b"GET /healthz HTTP/1.1\r\n")
    for _ in range(4):
        sock.sendall(b"x-filler: " + b"a" * (MAX_HEADER_BYTES // 2) + b"\r\n")
        time.sleep(0.2)


def test_headers_that_do_not_end_are_cut(gateway):
    with closing(raw(gateway)) as sock, pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
        fill_headers(sock)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nhost:"])
def test_a_connection_that_never_asks_is_closed(gateway, sent):
    with closing(raw(gateway)) as sock:
        sock.sendall(sent)
        begun = time.monotonic()
        with suppress(ConnectionError, ssl.SSLEOFError):
            assert sock.recv(1) == b""
        assert 5 < time.monotonic() - begun < 15


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_ended(stream):
    engine = EchoEngine(delay=30)
    with running(prepared(engine, request_seconds=1)) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(stream=stream))
        wait_for(lambda: engine.open == 0, seconds=1)
    assert answer.status_code == (200 if stream else 504)
    assert "request-timeout" in answer.text


def test_a_flood_is_told_when_to_come_back():
    answers: list[httpx2.Response] = []

    def ask(gateway):
        with gateway.client() as client:
            answers.append(client.post("/v1/chat/completions", json=chat()))

    with running(prepared(EchoEngine(delay=1.5), concurrent_requests=2)) as gateway:
        threads = [threading.Thread(target=ask, args=(gateway,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_reports_are_made_one_at_a_time_and_a_flood_of_them_is_refused():
    running_now, most = 0, 0

    async def slow(nonce):
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.02)
        running_now -= 1
        return b"{}"

    async def flood(gateway):
        async with httpx2.AsyncClient(base_url=gateway.url, verify=gateway.trust()) as client:
            path = "/v1/attestation/report?nonce=" + "00" * 32
            return await asyncio.gather(*(client.get(path, timeout=20) for _ in range(60)))

    with running(prepared(report=slow)) as gateway:
        answers = asyncio.run(flood(gateway))
        with gateway.client() as client:
            assert client.get("/v1/attestation/report?nonce=" + "00" * 32).status_code == 200
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    assert most == 1
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


def test_evidence_that_cannot_be_collected_is_unavailable():
    async def fails(nonce):
        raise Undecidable("too-large", "CANARY")

    with running(prepared(report=fails)) as gateway, gateway.client() as client:
        answer = client.get("/v1/attestation/report?nonce=" + "00" * 32)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "attestation-unavailable"
    assert "CANARY" not in answer.text


def test_draining_finishes_what_began_and_takes_nothing_new():
    gateway = prepared(EchoEngine(delay=1.5))
    gateway.notice = 0.5
    texts = []

    def ask():
        with gateway.client() as client:
            texts.append(client.post("/v1/chat/completions", json=chat(stream=True)).text)

    with running(gateway):
        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: gateway.engine.open == 1, seconds=5)
        with gateway.client() as client:
            assert client.get("/readyz").status_code == 200
            gateway.stop()
            wait_for(lambda: gateway.ready.admission.draining, seconds=1)
            assert client.get("/readyz").json()["error"]["code"] == "draining"
            assert client.get("/healthz").status_code == 200
            refused = client.post("/v1/chat/completions", json=chat())
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        thread.join()
    assert texts[0].endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v1/responses/resp_1",
        "/v1/score",
        "/pooling",
        "/classify",
        "/v1/chat/completions/",
        "/v1/chat/completions/render",
        "/tokenize",
        "/invocations",
        "/openapi.json",
        "/docs",
        "/health",
        "/v1/models/../../metrics",
        "//v1/models",
        "/v1/%6dodels/",
        "/healthz/x",
        "/sleep",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_outside_the_table_does_not_exist(gateway, path, method):
    with closing(raw(gateway)) as sock:
        request = (
            f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"authorization: Bearer {gateway.api_keys[0]}\r\n\r\n"
        )
        sock.sendall(request.encode())
        answer = everything(sock)
    status = answer.split(b" ")[1]
    assert status in {b"404", b"405"}
    assert b"route-unknown" in answer or b"model-not-found" in answer or status == b"405"
    assert not gateway.engine.bodies


def test_without_a_key_even_unknown_routes_are_closed(gateway):
    with httpx2.Client(base_url=gateway.url, verify=gateway.trust()) as client:
        for path in ("/metrics", "/v1/models", "/v1/chat/completions"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/healthz", "GET"),
        ("OPTIONS", "/v1/attestation/report", "GET"),
    ],
)
def test_a_wrong_method_names_the_right_one(gateway, method, path, allow):
    with gateway.client() as client:
        answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("declared", [True, False])
def test_a_huge_body_is_refused(gateway, declared):
    size = gateway.ready.limits.body_bytes + 1
    with closing(raw(gateway)) as sock:
        if declared:
            sock.sendall(post_head(gateway, f"content-length: {size}"))
        else:
            sock.sendall(post_head(gateway, "transfer-encoding: chunked"))
            sock.sendall(f"{size:x}\r\n".encode() + b"a" * size)
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_two_authorization_headers_are_nobody(gateway):
    headers = [("authorization", f"Bearer {key}") for key in gateway.api_keys]
    with httpx2.Client(base_url=gateway.url, verify=gateway.trust()) as client:
        assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "multipart/form-data"},
    ],
)
def test_only_plain_json_is_read(gateway, headers):
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", content=b"{}", headers=headers)
    assert answer.json()["error"]["code"] == "content-type"


def test_a_websocket_is_not_opened(gateway):
    lines = (
        "GET /v1/chat/completions HTTP/1.1",
        "host: x",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"authorization: Bearer {gateway.api_keys[0]}",
    )
    with closing(raw(gateway)) as sock:
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        sock.settimeout(5)
        assert sock.recv(4096).startswith(b"HTTP/1.1 405 ")
