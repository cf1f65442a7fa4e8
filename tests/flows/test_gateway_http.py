"""The public API over real TLS, with the unchanged OpenAI SDK."""

from __future__ import annotations

import json
import ssl
from dataclasses import replace

import httpx2
import openai
import pytest

from attestation.keyset import Keyset
from tests.gateway_kit import MODEL, EchoEngine, Gateway, chat, prepared, running

HELLO = [{"role": "user", "content": "hello world"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [None, 1]}}, "required": ["a"]}


@pytest.fixture(scope="module")
def gateway():
    with running(prepared()) as served:
        yield served


def sdk(gateway: Gateway, **options) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=options.pop("api_key", gateway.api_keys[0]),
        http_client=httpx2.Client(verify=gateway.trust(), timeout=20),
        max_retries=0,
        **options,
    )


def test_the_sdk_completes_a_chat(gateway):
    with sdk(gateway) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "hello world"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == 8


def test_the_sdk_streams_a_chat_under_one_id(gateway):
    with sdk(gateway) as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == "hello world "
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert chunks[-1].usage.completion_tokens == 3


def test_a_stream_carries_counts_only_for_whoever_asked(gateway):
    with sdk(gateway) as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert gateway.record.events[-1].output_tokens == 3


async def test_the_async_sdk_streams(gateway):
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=gateway.api_keys[1],
        http_client=httpx2.AsyncClient(verify=gateway.trust(), timeout=20),
    ) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        said = [chunk.choices[0].delta.content async for chunk in stream]
    assert said == ["hello ", "world "]


def test_the_sdk_calls_tools(gateway):
    with sdk(gateway) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="required"
        )
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Bern"}')
    sent = gateway.engine.bodies[-1]
    assert sent["tools"] == [TOOL]
    assert sent["tool_choice"] == "required"


def test_tool_calls_come_through_a_stream(gateway):
    with (
        sdk(gateway) as client,
        client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[TOOL]) as stream,
    ):
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"city":"Bern"}'


def test_an_answer_of_the_sdk_can_be_sent_back_as_history(gateway):
    with sdk(gateway) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL])
        said = answer.choices[0].message
        tool = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "sunny"}
        client.chat.completions.create(
            model=MODEL, messages=[*HELLO, said, tool, said.model_dump(), tool], tools=[TOOL]
        )
    sent = gateway.engine.bodies[-1]["messages"]
    assert sent[1]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert sent[4] == tool


def test_a_json_schema_reaches_the_engine_whole(gateway):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    with sdk(gateway) as client:
        client.chat.completions.create(model=MODEL, messages=HELLO, response_format=wanted)
    assert gateway.engine.bodies[-1]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_the_sdk_completes_a_prompt_and_streams_one(gateway):
    with sdk(gateway) as client:
        whole = client.completions.create(model=MODEL, prompt="once upon", max_tokens=5)
        parts = list(client.completions.create(model=MODEL, prompt="once upon", stream=True))
    assert whole.choices[0].text == "once upon"
    assert whole.id.startswith("cmpl-")
    assert "".join(part.choices[0].text for part in parts) == "once upon "


def test_the_sdk_lists_models(gateway):
    with sdk(gateway) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-5")
    assert caught.value.code == "model-not-found"


def test_thinking_is_carried_under_both_names():
    with running(prepared(EchoEngine(reasoning="hmm"), reasoning=True)) as gateway:
        with sdk(gateway) as client:
            whole = client.chat.completions.create(model=MODEL, messages=HELLO)
            parts = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
        for said in (whole.choices[0].message, parts[0].choices[0].delta):
            assert (said.reasoning, said.reasoning_content) == ("hmm", "hmm")
        assert gateway.engine.bodies[0]["chat_template_kwargs"] == {"enable_thinking": True}
        assert gateway.engine.bodies[0]["temperature"] == 0.6


def test_engine_internals_do_not_leave(gateway):
    with gateway.client() as client:
        whole = client.post("/v1/chat/completions", json=chat()).text
        parts = client.post("/v1/chat/completions", json=chat(stream=True)).text
    for text in (whole, parts):
        for word in ("engine-internal", "fingerprint", "token_ids", "metrics", "cached_tokens"):
            assert word not in text
    assert parts.endswith("data: [DONE]\n\n")


def test_a_wrong_key_is_an_authentication_error_of_the_sdk(gateway):
    for wrong in ("sk-proj-x", gateway.api_keys[0][:-1] + "g", "sk-tacit-" + "a" * 61):
        with sdk(gateway, api_key=wrong) as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_what_a_verifier_needs_is_open_to_everyone(gateway):
    with httpx2.Client(base_url=gateway.url, verify=gateway.trust()) as client:
        assert client.get("/healthz").status_code == 200
        assert client.head("/healthz").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        keyset = Keyset.parse(client.get("/.well-known/tacit/keyset").content)
        assert keyset.tls_spki == str(gateway.identity.spki)
        nonce = "ab" * 32
        report = client.get(f"/v1/attestation/report?nonce={nonce}")
        assert json.loads(report.content) == {"nonce": nonce}
        assert report.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("query", ["", "?nonce=", "?nonce=ab", "?nonce=" + "zz" * 32, "?x=1"])
def test_a_bad_nonce_is_refused(gateway, query):
    with gateway.client() as client:
        answer = client.get(f"/v1/attestation/report{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "nonce-invalid")


def test_only_tls_1_3_is_spoken(gateway):
    context = gateway.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        httpx2.Client(base_url=gateway.url, verify=context) as client,
        pytest.raises(httpx2.ConnectError),
    ):
        client.get("/healthz")


def test_every_answer_has_its_own_request_id_and_no_server_name(gateway):
    with gateway.client() as client:
        sent = {"x-request-id": "CANARY-id"}
        answers = [client.get("/v1/models", headers=sent) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(name.startswith("req_") for name in ids)
    assert all("server" not in answer.headers for answer in answers)


def test_each_tenant_has_its_own_cache_salt_and_no_client_chooses_it(gateway):
    salts = []
    with gateway.client() as client:
        for key in (gateway.api_keys[0], gateway.api_keys[0], gateway.api_keys[1]):
            headers = {"authorization": f"Bearer {key}"}
            client.post("/v1/chat/completions", json=chat(), headers=headers)
            salts.append(gateway.engine.bodies[-1]["cache_salt"])
        refused = client.post("/v1/chat/completions", json=chat(cache_salt=salts[0]))
    assert salts[0] == salts[1] != salts[2]
    assert len(salts[0]) == 64
    assert refused.json()["error"]["code"] == "engine-control-refused"


@pytest.mark.parametrize(("status", "code"), [(400, 400), (503, 429), (500, 502), (404, 502)])
@pytest.mark.parametrize("stream", [False, True])
def test_engine_refusals_become_ours_before_anything_is_sent(status, code, stream):
    with running(prepared(EchoEngine(status=status))) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(stream=stream))
    assert answer.status_code == code
    assert "CANARY" not in answer.text
    assert answer.json()["error"]["code"].startswith("engine-")


@pytest.mark.parametrize(("said", "status"), [(400, 400), (500, 502)])
def test_a_refusal_at_the_beginning_of_a_stream_has_its_own_status(said, status):
    engine = EchoEngine(say_error_after=0, say_status=said)
    with running(prepared(engine)) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat(stream=True))
    assert answer.status_code == status
    assert "CANARY" not in answer.text
    assert gateway.record.events[0].code == answer.json()["error"]["code"]


@pytest.mark.parametrize("fault", ["break_after", "say_error_after"])
def test_an_engine_that_fails_in_a_stream_ends_it_with_an_error(fault):
    engine = EchoEngine(**{fault: 1})
    with running(prepared(engine)) as gateway:
        with gateway.client() as client:
            text = client.post("/v1/chat/completions", json=chat(stream=True)).text
        with sdk(gateway) as client, pytest.raises(openai.APIError):
            list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert "hello" in text
    assert "engine-failed" in text
    assert "CANARY" not in text
    assert "[DONE]" not in text
    assert gateway.record.events[0].code == "engine-failed"


def test_a_request_is_recorded_without_content(gateway):
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=chat())
    event = gateway.record.events[-1]
    assert event.request == answer.headers["x-request-id"]
    assert (event.tenant, event.key, event.status) == ("acme", "key00000", 200)
    assert event.route == "/v1/chat/completions"
    assert (event.input_tokens, event.output_tokens) == (5, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_is_whole_when_it_cannot_be_recorded(stream):
    gateway = prepared()
    gateway.record.broken = True
    with running(gateway), gateway.client() as client:
        if stream:
            with pytest.raises(httpx2.RemoteProtocolError):
                client.post("/v1/chat/completions", json=chat(stream=True))
        else:
            answer = client.post("/v1/chat/completions", json=chat())
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "audit-unavailable"


def test_a_guest_whose_engine_is_down_leaves_the_rotation_but_lives():
    gateway = prepared()
    gateway.ready = replace(gateway.ready, healthy=lambda: False)
    with running(gateway), gateway.client() as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
