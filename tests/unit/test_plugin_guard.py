"""The guard inside vLLM: four routes, bare requests, errors without words."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tacit_vllm import quiet
from tacit_vllm.guard import ROUTES, Guard

CANARY = b"canary-7f3a"


@pytest.fixture(autouse=True)
def quiet_records() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    quiet.install()
    yield
    logging.setLogRecordFactory(before)


class Engine:
    """An ASGI application that answers as it is told and remembers what it was asked."""

    def __init__(self, status: int = 200, body: bytes = b"{}", *, fails: str = "") -> None:
        self.status, self.body, self.fails = status, body, fails
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if self.fails == "before":
            raise ValueError(CANARY.decode())
        headers = [(b"content-type", b"application/json"), (b"x-request-id", CANARY)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if self.fails == "amid":
            raise ValueError(CANARY.decode())
        half = len(self.body) // 2
        await send({"type": "http.response.body", "body": self.body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": self.body[half:]})


async def ask(
    engine: Engine, *, method: str = "POST", path: str = "/v1/completions", kind: str = "http"
) -> tuple[int, dict[bytes, bytes], bytes, list[Any]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": CANARY,
        "headers": [(b"Content-Type", b"application/json"), (b"x-canary", CANARY),
                    (b"authorization", CANARY), (b"host", b"engine")],
    }  # fmt: skip
    await Guard(engine)(scope, receive, send)
    start = next((m for m in sent if m["type"] == "http.response.start"), None)
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return (start["status"], dict(start["headers"]), body, sent) if start else (0, {}, b"", sent)


async def test_a_known_request_arrives_without_query_and_strange_headers() -> None:
    engine = Engine()
    status, headers, body, _ = await ask(engine)
    assert (status, body) == (200, b"{}")
    assert headers == {b"content-type": b"application/json"}
    (scope,) = engine.scopes
    assert scope["query_string"] == b""
    assert [name for name, _ in scope["headers"]] == [b"Content-Type", b"host"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/scale_elastic_ep"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/health"),
        ("GET", "/metrics/"),
        ("OPTIONS", "/v1/completions"),
        ("GET", "/docs"),
    ],
)
async def test_any_other_route_is_not_there(method: str, path: str) -> None:
    engine = Engine()
    status, _, _, _ = await ask(engine, method=method, path=path)
    assert status == 404
    assert engine.scopes == []


async def test_seven_routes_are_there() -> None:
    for method, path in ROUTES:
        assert (await ask(Engine(), method=method, path=path))[0] == 200
    assert len(ROUTES) == 7


async def test_a_websocket_is_closed() -> None:
    engine = Engine()
    *_, sent = await ask(engine, kind="websocket", path="/v1/realtime")
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert engine.scopes == []


def error(kind: str, param: str | None, status: int = 400) -> bytes:
    said = {"message": f"{CANARY.decode()} is too long", "type": kind, "param": param}
    return json.dumps({"error": said | {"code": status}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, error("BadRequestError", "input_text"), "BadRequestError", "context_length_exceeded"),
        (400, error("BadRequestError", "input_tokens"), "BadRequestError",
         "context_length_exceeded"),
        (400, error("BadRequestError", "max_tokens"), "BadRequestError", "max_tokens_exceeded"),
        (400, error("BadRequestError", CANARY.decode()), "BadRequestError", None),
        (400, error(CANARY.decode(), None), "BadRequestError", None),
        (404, error("NotFoundError", "input_text", 404), "NotFoundError", None),
        (500, error("InternalServerError", None, 500), "InternalServerError", None),
        (503, error("ServiceUnavailableError", None, 503), "ServiceUnavailableError", None),
        (422, b'{"detail":[{"input":"canary-7f3a"}]}', "BadRequestError", None),
        (500, CANARY, "InternalServerError", None),
        (500, b"[" * 100_000, "InternalServerError", None),
        (400, b"", "BadRequestError", None),
    ],
)  # fmt: skip
async def test_an_error_keeps_its_status_and_loses_its_words(
    status: int, body: bytes, kind: str, code: str | None
) -> None:
    got, headers, answer, sent = await ask(Engine(status, body))
    assert got == status
    assert not any(CANARY in repr(message).encode() for message in sent)
    assert headers[b"content-length"] == str(len(answer)).encode()
    assert json.loads(answer)["error"] == {
        "message": "refused by the engine", "type": kind, "param": None, "code": code
    }  # fmt: skip


async def test_a_crash_before_the_answer_is_a_plain_500(caplog: pytest.LogCaptureFixture) -> None:
    status, _, body, _ = await ask(Engine(fails="before"))
    assert status == 500
    assert CANARY not in body
    assert "ValueError" in caplog.text
    assert CANARY.decode() not in caplog.text


async def test_a_crash_amid_the_answer_breaks_it_off_without_words() -> None:
    with pytest.raises(RuntimeError, match="broke off") as broken:
        await ask(Engine(fails="amid"))
    assert broken.value.__suppress_context__


def test_without_the_plug_in_there_is_no_guard() -> None:
    logging.setLogRecordFactory(logging.LogRecord)
    with pytest.raises(RuntimeError):
        Guard(Engine())
