"""The Responses API: what its requests may hold, and what of its answers leaves."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.confidential import Confidential
from server.errors import MESSAGES, Rejected
from server.schemas.answers import BadAnswer, Stamp, Usage
from server.schemas.fields import MAX_SCHEMA_DEPTH, MAX_TOOLS
from server.schemas.requests import parse
from server.schemas.response_answers import rebuild
from server.schemas.responses import ResponsesRequest
from server.schemas.target import Target

TARGET = Target(model="qwen3", reasoning=True, seeds=False, cache_salt="salt")
STAMP = Stamp(id="resp-ours", model="qwen3", created=1790000000)
FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}


def asked(**fields) -> dict:
    return {"model": "qwen3", "input": "CANARY", **fields}


def sent(body: dict, target: Target = TARGET) -> dict:
    request = parse(ResponsesRequest, json.dumps(body).encode(), limit=1 << 20)
    return json.loads(request.engine_body(target).reveal())


def refused(body: dict) -> tuple[str, str | None]:
    with pytest.raises(Rejected) as caught:
        parse(ResponsesRequest, json.dumps(body).encode(), limit=1 << 20)
    assert "CANARY" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
    return caught.value.code, caught.value.param


def nested(depth: int) -> dict:
    return {"items": nested(depth - 1)} if depth else {}


def test_only_declared_fields_reach_the_engine():
    body = sent(asked(user="u", metadata={"a": "b"}, store=False, service_tier="auto"))
    assert body == {
        "model": "qwen3",
        "input": "CANARY",
        "cache_salt": "salt",
        "store": False,
        "background": False,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": True},
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.0,
    }


def test_items_lose_their_ids_and_keep_their_words():
    text = {"type": "output_text", "text": "said", "annotations": [], "logprobs": []}
    items = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_9", "summary": [], "status": None,
         "content": [{"type": "reasoning_text", "text": "hm"}], "encrypted_content": None},
        {"type": "message", "id": "msg_9", "role": "assistant", "status": "in_progress",
         "content": [text], "phase": None},
        {**CALL, "id": "fc_9", "status": "completed", "namespace": None,
         "caller": None, "async_": None, "async": None},
        {**OUTPUT, "output": [{"type": "input_text", "text": "seen"}]},
    ]  # fmt: skip
    assert sent(asked(input=items))["input"] == [
        {"type": "message", "role": "system", "content": "be brief"},
        {"type": "message", "role": "user", "content": "hi"},
        {
            "type": "reasoning",
            "id": "rs_0",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "message", "role": "assistant", "content": "said"},
        CALL,
        OUTPUT,
    ]


def test_the_form_of_the_text_and_the_tools_are_the_engine_s():
    shape = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": False}
    body = sent(asked(text={"format": shape}, tools=[FUNCTION], tool_choice="required"))
    assert body["text"]["format"] == {**shape, "strict": True}
    assert body["tools"] == [FUNCTION]
    assert body["tool_choice"] == "required"


def test_thinking_is_asked_for_by_effort():
    assert sent(asked(reasoning={"effort": "none"}))["chat_template_kwargs"] == {
        "enable_thinking": False
    }
    plain = Target(model="qwen3", reasoning=False, seeds=True, cache_salt="salt")
    assert "chat_template_kwargs" not in sent(asked(), plain)
    with pytest.raises(Rejected, match="thinking-unsupported"):
        sent(asked(reasoning={"effort": "high"}), plain)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"store": True}, "store-refused", "store"),
        ({"background": True}, "store-refused", "background"),
        ({"previous_response_id": "CANARY"}, "store-refused", "previous_response_id"),
        ({"conversation": "CANARY"}, "store-refused", "conversation"),
        ({"input": [{"type": "item_reference", "id": "CANARY"}]}, "store-refused", "input[0]"),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "CANARY"}]},
            "store-refused",
            "input[0].encrypted_content",
        ),
        ({"prompt": {"id": "CANARY"}}, "template-refused", "prompt"),
        ({"tools": [{"type": "web_search"}]}, "egress-refused", "tools[0]"),
        ({"tools": [{"type": "mcp", "server_url": "CANARY"}]}, "egress-refused", "tools[0]"),
        ({"cache_salt": "CANARY"}, "engine-control-refused", "cache_salt"),
        ({"request_id": "CANARY"}, "engine-control-refused", "request_id"),
        ({"previous_input_messages": []}, "engine-control-refused", "previous_input_messages"),
        ({"enable_response_messages": True}, "echo-refused", "enable_response_messages"),
        ({"truncation": "auto"}, "field-invalid", "truncation"),
        ({"CANARY": 1}, "unknown-field", None),
        ({"input": []}, "field-invalid", "input"),
        ({"input": [{"type": "CANARY"}]}, "field-invalid", "input[0]"),
        ({"input": [{"role": "CANARY", "content": "x"}]}, "field-invalid", "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "media-refused",
            "input[0].content[0]",
        ),
        ({"tool_choice": "required"}, "tool-unknown", "tool_choice"),
        ({"tools": [FUNCTION, FUNCTION]}, "fields-conflict", "tools"),
        ({"top_logprobs": 3}, "fields-conflict", "top_logprobs"),
        ({"text": {"format": {"type": "json_schema"}}}, "fields-conflict", "text.format.schema"),
        ({"tools": [FUNCTION] * (MAX_TOOLS + 1)}, "too-many", "tools"),
        (
            {"tools": [{**FUNCTION, "parameters": nested(MAX_SCHEMA_DEPTH + 1)}]},
            "schema-too-large",
            "tools[0].parameters",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields, code, param):
    assert refused(asked(**fields)) == (code, param)
    assert code in MESSAGES


def engine_response(**fields) -> dict:
    text = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": None}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_engine",
        "object": "response",
        "created_at": 5,
        "model": "engine-name",
        "status": "completed",
        "output": [{**message, "content": [text], "phase": None}],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 1, "tool_output_tokens": 0},
            "total_tokens": 7,
        },
        "instructions": "CANARY",
        "tools": [{"name": "CANARY"}],
        "metadata": {"CANARY": "CANARY"},
        "text": {"format": {"schema": "CANARY"}},
        "input_messages": ["CANARY"],
        "user": "CANARY",
        "temperature": 0.5,
        "incomplete_details": None,
        **fields,
    }


def rebuilt(value) -> tuple[dict, object]:
    found = rebuild(Confidential(json.dumps(value).encode()), STAMP, with_usage=False)
    return json.loads(found.json.reveal()), found


def test_what_the_engine_repeats_of_the_request_does_not_leave():
    answer, found = rebuilt(engine_response())
    assert "CANARY" not in json.dumps(answer)
    assert "cached" not in json.dumps(answer)
    assert (answer["id"], answer["model"]) == ("resp-ours", "qwen3")
    assert answer["output"][0]["content"][0]["text"] == "hello"
    assert answer["store"] is False
    assert found.usage == Usage(3, 4)


def test_an_event_is_named_and_the_last_one_ends_the_stream():
    delta = {"type": "response.output_text.delta", "delta": "hi", "item_id": "msg_1",
             "output_index": 0, "content_index": 0, "sequence_number": 4, "logprobs": [],
             "obfuscation": "x"}  # fmt: skip
    answer, found = rebuilt(delta)
    assert answer == {name: value for name, value in delta.items() if name != "obfuscation"}
    assert (found.event, found.last) == (b"response.output_text.delta", False)
    whole = {"type": "response.completed", "sequence_number": 9, "response": engine_response()}
    answer, found = rebuilt(whole)
    assert answer["response"]["id"] == "resp-ours"
    assert "CANARY" not in json.dumps(answer)
    assert (found.last, found.usage) == (True, Usage(3, 4))


@pytest.mark.parametrize(
    "value",
    [
        {"object": "chat.completion", "choices": []},
        {"type": "response.mcp_call.completed", "sequence_number": 1},
        {"type": ["response.completed"]},
        {"type": "response.completed", "sequence_number": 1, "response": None},
        engine_response(status="CANARY"),
        engine_response(output=[{"type": "web_search_call"}]),
        engine_response(output=[{"type": ["message"]}]),
        engine_response(output=None),
        engine_response(usage={"input_tokens": "CANARY"}),
    ],
)
def test_what_is_not_a_response_is_not_passed_on(value):
    with pytest.raises(BadAnswer):
        rebuilt(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(engine_response())), JSON)
def test_no_answer_of_a_broken_engine_does_more_than_fail(name, value):
    with contextlib.suppress(BadAnswer):
        rebuilt(engine_response(**{name: value}))


@settings(max_examples=100)
@given(st.sampled_from(sorted(ResponsesRequest.model_fields)), JSON)
def test_no_request_does_more_than_be_refused(name, value):
    with contextlib.suppress(Rejected):
        sent({**asked(), name: value})
