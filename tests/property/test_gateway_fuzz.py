"""No request body makes the gateway fail or repeat what it was sent."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from server.app import create_app
from server.schemas.controls import Controls
from server.schemas.requests import ChatRequest
from tests.gateway_kit import chat, prepared

MARK = "qZx9"
marked = st.text(max_size=8).map(lambda text: MARK + text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | marked,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(marked, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(sorted({*ChatRequest.model_fields, *Controls.model_fields})) | marked
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | marked, "content": values},
    optional={"tool_calls": values, "name": values, "tool_call_id": values, MARK: values},
)
bodies = st.dictionaries(names, values, max_size=4)
conversations = st.lists(messages | values, max_size=3)


def answer(body: bytes, *, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    async def ask():
        gateway = prepared()
        app = create_app(gateway.ready)
        sent: list[dict] = []
        incoming = asyncio.Queue()
        incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

        async def send(message):
            sent.append(message)

        headers = [
            (b"authorization", f"Bearer {gateway.api_keys[0]}".encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await app(scope | {"query_string": b"", "root_path": ""}, incoming.get, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    return asyncio.run(ask())


def check(status: int, text: bytes) -> None:
    assert status < 500
    if status != 200:
        assert MARK.encode() not in text
        assert json.loads(text)["error"]["message"]


@settings(max_examples=150)
@given(bodies, conversations)
def test_a_body_of_any_shape_is_answered_or_refused_without_an_echo(fields, said):
    body = json.dumps(chat() | fields | {"messages": said}).encode()
    check(*answer(body))


@settings(max_examples=100)
@given(bodies)
def test_any_field_beside_a_valid_conversation_is_answered_or_refused(fields):
    check(*answer(json.dumps(chat() | fields).encode()))


@settings(max_examples=100)
@given(bodies)
def test_any_completion_is_answered_or_refused(fields):
    body = {"model": chat()["model"], "prompt": "hello"} | fields
    check(*answer(json.dumps(body).encode(), path="/v1/completions"))


@settings(max_examples=150)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_bytes_that_are_no_request_are_refused(body):
    status, _ = answer(body)
    assert status == 400
