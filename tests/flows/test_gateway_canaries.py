"""Whatever a client writes, wherever it writes it, never comes back in an error or a log line."""

from __future__ import annotations

import json
import logging
from dataclasses import fields

import httpx2
import pytest

from server.audit import AuditEvent
from server.errors import MESSAGES
from tests.gateway_kit import MODEL, chat, prepared, running

CANARY = "CaNaRy7f3a"
DEEP = "[" * 100_000


def vectors():
    user = {"role": "user", "content": CANARY}
    function = {"name": "f", "parameters": {CANARY: {"type": CANARY}}}
    yield "prompt", chat(messages=[user], bogus=1)
    yield "system", chat(messages=[{"role": "system", "content": CANARY}], bogus=1)
    yield "role", chat(messages=[{"role": CANARY, "content": "x"}])
    yield "part type", chat(messages=[{"role": "user", "content": [{"type": CANARY}]}])
    yield "part text", chat(messages=[{"role": "user", "content": [{"text": CANARY}]}])
    yield "content type", chat(messages=[{"role": "user", "content": {CANARY: CANARY}}])
    url = {"type": "image_url", "image_url": {"url": f"http://{CANARY}/"}}
    yield "media", chat(messages=[{"role": "user", "content": [url]}])
    yield "message field", chat(messages=[{**user, CANARY: CANARY}])
    yield "field name", chat(**{CANARY: 1})
    yield "nested name", chat(stream=True, stream_options={CANARY: True})
    yield "model", chat(model=CANARY)
    yield "model type", chat(model=[CANARY])
    yield "user", chat(user=CANARY, bogus=1)
    yield "user type", chat(user={CANARY: CANARY}, bogus=1)
    yield "metadata", chat(metadata={CANARY: CANARY}, store=True)
    yield "stop", chat(stop=[CANARY] * 5)
    yield "stop type", chat(stop={CANARY: 1})
    yield "temperature", chat(temperature=CANARY)
    yield "n", chat(n=CANARY)
    yield "seed", chat(seed=CANARY)
    yield "bias", chat(logit_bias={CANARY: 1})
    yield "tool name", chat(tools=[{"type": "function", "function": {"name": CANARY + " "}}])
    yield "tool type", chat(tools=[{"type": CANARY}])
    yield "tool field", chat(tools=[{"type": "function", "function": function, CANARY: 1}])
    yield "tool schema", chat(tools=[{"type": "function", "function": {"parameters": CANARY}}])
    named = {"type": "function", "function": {"name": CANARY}}
    yield "tool choice", chat(tool_choice=named)
    yield "tool choice text", chat(tool_choice=CANARY)
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": 1}}
    yield "tool call", chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    yield "tool call id", chat(messages=[{"role": "tool", "content": "x", "tool_call_id": 1}, user])
    yield "format", chat(response_format={"type": CANARY})
    deep = {"a": CANARY}
    for _ in range(50):
        deep = {CANARY: deep}
    big = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    yield "schema depth", chat(response_format=big)
    yield (
        "schema name",
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": CANARY + "!", "schema": {}},
            }
        ),
    )
    yield "template", chat(chat_template=CANARY)
    yield "template kwargs", chat(chat_template_kwargs={CANARY: CANARY})
    for name in ("request_id", "cache_salt", "session_id", "kv_transfer_params", "vllm_xargs"):
        yield name, chat(**{name: CANARY})
    for name in ("prompt_embeds", "guided_regex", "structured_outputs", "documents"):
        yield name, chat(**{name: [CANARY]})
    yield "completion", {"model": MODEL, "prompt": [[CANARY]]}
    yield "completion echo", {"model": MODEL, "prompt": CANARY, "echo": True}


VECTORS = tuple(vectors())
RAW = {
    "malformed": b'{"messages": "' + CANARY.encode(),
    "not an object": json.dumps([CANARY]).encode(),
    "text": CANARY.encode(),
    "duplicate name": f'{{"{CANARY}": 1, "{CANARY}": 2}}'.encode(),
    "invalid utf-8": b'{"model": "\xff' + CANARY.encode() + b'"}',
    "lone surrogate": f'{{"model": "\\ud800{CANARY}"}}'.encode(),
    "nan": f'{{"temperature": NaN, "{CANARY}": 1}}'.encode(),
    "huge number": b'{"seed": 1' + b"0" * 5000 + b', "' + CANARY.encode() + b'": 1}',
    "deep": DEEP.encode() + CANARY.encode(),
    "empty": b"",
    "bom": b"\xef\xbb\xbf{}" + CANARY.encode(),
}


@pytest.fixture(scope="module")
def gateway():
    with running(prepared()) as served:
        yield served


@pytest.fixture
def quiet(caplog, capfd):
    """Fail when the test logged or printed the canary; the client's own loggers do not count."""
    caplog.set_level(logging.DEBUG)
    for name in ("tacit.api", "uvicorn.error", "uvicorn.access", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield
    printed = capfd.readouterr()
    records = [r for r in caplog.get_records("call") if not r.name.startswith("http")]
    assert [r for r in records if r.name == "tacit.api"], "nothing was logged, nothing searched"
    assert not [r for r in records if r.name == "uvicorn.access"]
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in records)
    assert CANARY not in logged + printed.out + printed.err


def check(answer: httpx2.Response, gateway) -> None:
    assert 400 <= answer.status_code < 500
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"] == MESSAGES[error["code"]]
    event = gateway.record.events[-1]
    assert event.code == error["code"]
    assert CANARY not in "".join(str(getattr(event, field.name)) for field in fields(AuditEvent))


@pytest.mark.parametrize(("where", "body"), VECTORS, ids=[name for name, _ in VECTORS])
def test_a_canary_in_a_request_is_not_repeated(gateway, quiet, where, body):
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    with gateway.client() as client:
        check(client.post(path, json=body), gateway)


@pytest.mark.parametrize("where", RAW)
def test_a_canary_in_broken_json_is_not_repeated(gateway, quiet, where):
    headers = {"content-type": "application/json"}
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", content=RAW[where], headers=headers)
    check(answer, gateway)
    assert answer.json()["error"]["code"] == "json-malformed"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", f"/v1/{CANARY}", {}),
        ("GET", f"/{CANARY}?{CANARY}={CANARY}", {}),
        ("GET", f"/v1/models/{CANARY}", {}),
        ("GET", f"/v1/attestation/report?nonce={CANARY}", {}),
        ("GET", "/v1/models", {"authorization": f"Bearer {CANARY}"}),
        ("GET", "/v1/models", {"authorization": f"{CANARY} x"}),
        ("POST", "/v1/chat/completions", {"content-type": CANARY, "x-request-id": CANARY}),
        ("POST", "/healthz", {CANARY: CANARY}),
        ("PURGE", f"/healthz?{CANARY}", {}),
    ],
)
def test_a_canary_outside_the_body_is_not_repeated(gateway, quiet, method, path, headers):
    with gateway.client() as client:
        answer = client.request(method, path, headers=headers)
    assert 400 <= answer.status_code < 500
    assert CANARY not in answer.text + str(answer.headers)


def test_a_canary_that_is_not_http_is_not_repeated(gateway, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="uvicorn.error")
    with gateway.client() as client:
        answer = client.request(CANARY.upper(), "/healthz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "http-malformed")
    uvicorn = [record for record in caplog.records if record.name == "uvicorn.error"]
    assert uvicorn
    assert not any(CANARY.upper() in str(record.__dict__).upper() for record in uvicorn)
    printed = capfd.readouterr()
    assert CANARY.upper() not in (printed.out + printed.err).upper()


def test_a_bug_is_answered_and_logged_without_its_text(gateway, quiet):
    class Broken:
        async def call(self, path, body):
            raise RuntimeError(f"{CANARY} {body.reveal()!r}")

    target = gateway.ready.models[MODEL]
    original = target.engine
    object.__setattr__(target, "engine", Broken())
    try:
        with gateway.client() as client:
            answer = client.post("/v1/chat/completions", json=chat())
    finally:
        object.__setattr__(target, "engine", original)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert CANARY not in answer.text


def test_the_notes_of_a_valid_request_hold_no_content(gateway, quiet):
    body = chat(messages=[{"role": "user", "content": CANARY}], user=CANARY, stop=[CANARY])
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
        refused = client.post("/v1/chat/completions", json={**body, "bogus": 1})
    assert CANARY in answer.text  # the engine echoes, so the canary did go through the gateway
    assert refused.status_code == 400
