"""Requests: what is accepted, what the engine gets, what is refused and under which name."""

from __future__ import annotations

import json

import pytest

from server.errors import MESSAGES, BadRequest, Rejected, TooLarge
from server.schemas.requests import ChatRequest, CompletionRequest, Target, parse
from tests.gateway_kit import MODEL, chat

PLAIN = Target(model=MODEL, reasoning=False, seeds=True, cache_salt="salt")
THINKER = Target(model=MODEL, reasoning=True, seeds=True, cache_salt="salt")
CPU = Target(model=MODEL, reasoning=False, seeds=False, cache_salt="salt")
LIMIT = 1 << 20


def sent(body: dict, target: Target = PLAIN, kind=ChatRequest) -> dict:
    request = parse(kind, json.dumps(body).encode(), limit=LIMIT)
    return json.loads(request.engine_body(target).reveal())


def refused(body: dict, kind=ChatRequest) -> tuple[str, str | None]:
    with pytest.raises(Rejected) as caught:
        parse(kind, json.dumps(body).encode(), limit=LIMIT)
    return caught.value.code, caught.value.param


def assistant(**fields) -> dict:
    return chat(messages=[{"role": "assistant", **fields}, {"role": "user", "content": "x"}])


def test_only_declared_fields_reach_the_engine():
    body = chat(user="u", metadata={"a": "b"}, store=False, safety_identifier="s", n=2, stop="x")
    assert sent(body) == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello world"}],
        "cache_salt": "salt",
        "n": 2,
        "stop": "x",
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.0,
    }


def test_the_repr_of_a_request_shows_nothing():
    body = chat(messages=[{"role": "user", "content": "CANARY"}], user="CANARY", stop=["CANARY"])
    request = parse(ChatRequest, json.dumps(body).encode(), limit=LIMIT)
    for thing in (request, request.messages, request.messages[0], [request], f"{request}"):
        assert "CANARY" not in repr(thing) + str(thing) + f"{thing!s}"


def test_an_exception_of_a_bad_request_holds_no_input():
    with pytest.raises(BadRequest) as caught:
        parse(ChatRequest, json.dumps(chat(temperature="CANARY")).encode(), limit=LIMIT)
    assert "CANARY" not in repr(caught.value) + str(caught.value) + str(vars(caught.value))
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)
def test_thinking_is_switched_and_sampled_as_the_model_card_says(fields, expected):
    body = sent(chat(**fields), THINKER)
    assert body["chat_template_kwargs"] == {"enable_thinking": expected}
    assert (body["temperature"], body["top_p"]) == ((0.6, 0.95) if expected else (0.7, 0.8))
    assert "reasoning_effort" not in body


def test_a_model_that_does_not_think_is_not_asked_to():
    assert "chat_template_kwargs" not in sent(chat(reasoning_effort="none"))
    for fields in (
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ):
        with pytest.raises(BadRequest) as caught:
            sent(chat(**fields))
        assert caught.value.code == "thinking-unsupported"


def test_what_the_client_names_wins_over_the_model_card():
    body = sent(chat(temperature=0, top_p=1, top_k=-1, min_p=0.5))
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0, 1, -1, 0.5)


def test_the_seed_is_kept_from_an_engine_it_would_kill():
    assert sent(chat(seed=7))["seed"] == 7
    assert "seed" not in sent(chat(seed=7), CPU)


def test_counts_are_asked_for_in_every_stream():
    body = sent(chat(stream=True))
    assert body["stream_options"] == {"include_usage": True}
    assert "stream" not in sent(chat(stream=False))


def test_the_newer_name_of_the_limit_wins():
    assert sent(chat(max_tokens=5))["max_completion_tokens"] == 5
    assert sent(chat(max_tokens=5, max_completion_tokens=6))["max_completion_tokens"] == 6


def test_text_parts_are_joined_and_developers_speak_as_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(
        messages=[{"role": "developer", "content": parts}, {"role": "user", "content": parts}]
    )
    assert sent(body)["messages"] == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "a\nb"},
    ]


@pytest.mark.parametrize("written", ["", "not json", "[]", "42", '{"a": "\\ud800"}', "[" * 9999])
def test_a_malformed_call_in_the_history_becomes_an_empty_object(written):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": written}}
    message = sent(assistant(content=None, tool_calls=[call]))["messages"][0]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_thoughts_in_the_history_are_passed_under_the_name_of_the_engine():
    for name in ("reasoning", "reasoning_content"):
        message = sent(assistant(content="x", **{name: "hmm"}))["messages"][0]
        assert message == {"role": "assistant", "content": "x", "reasoning": "hmm"}


def test_nulls_in_a_schema_survive():
    schema = {"type": "object", "properties": {"a": {"default": None, "enum": [None, 1.5]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert sent(chat(tools=[tool]))["tools"][0]["function"]["parameters"] == schema


def test_tool_choice_follows_tools():
    tool = {"type": "function", "function": {"name": "f"}}
    named = {"type": "function", "function": {"name": "f"}}
    assert sent(chat(tools=[tool]))["tool_choice"] == "auto"
    assert sent(chat(tools=[tool], tool_choice=named))["tool_choice"] == named
    assert "tool_choice" not in sent(chat(tool_choice="auto"))
    assert refused(chat(tool_choice=named))[0] == "tool-unknown"
    assert refused(chat(tool_choice="required"))[0] == "tool-unknown"
    assert refused(chat(tools=[tool, tool]))[0] == "fields-conflict"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"store": True}, "store-refused"),
        ({"background": True}, "store-refused"),
        ({"previous_response_id": "x"}, "store-refused"),
        ({"request_id": "x"}, "engine-control-refused"),
        ({"cache_salt": "x"}, "engine-control-refused"),
        ({"priority": 0}, "engine-control-refused"),
        ({"kv_transfer_params": {}}, "engine-control-refused"),
        ({"vllm_xargs": {}}, "engine-control-refused"),
        ({"chat_template": "x"}, "template-refused"),
        ({"add_special_tokens": True}, "template-refused"),
        ({"documents": []}, "template-refused"),
        ({"prompt_embeds": "x"}, "media-refused"),
        ({"modalities": ["audio"]}, "media-refused"),
        ({"echo": True}, "echo-refused"),
        ({"prompt_logprobs": 1}, "echo-refused"),
        ({"guided_regex": "x"}, "decoding-refused"),
        ({"structured_outputs": {}}, "decoding-refused"),
        ({"web_search_options": {}}, "egress-refused"),
        ({"functions": []}, "deprecated-refused"),
    ],
)
def test_a_dangerous_field_is_refused_by_name_even_beside_other_faults(fields, code):
    (name,) = fields
    assert refused(chat(n="x", **fields)) == (code, name)
    assert refused({"model": MODEL, "prompt": "x", **fields}, CompletionRequest) == (code, name)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"messages": []}, "field-missing", "model"),
        (chat(bogus=1), "unknown-field", None),
        (chat(chat_template_kwargs={"tools": 1}), "unknown-field", "chat_template_kwargs"),
        (chat(prompt="x"), "unknown-field", "prompt"),
        (chat(messages=[]), "field-invalid", "messages"),
        (chat(messages=[{"role": "user"}]), "field-missing", "messages[0].content"),
        (chat(messages=[{"role": "pirate", "content": ""}]), "field-invalid", "messages[0]"),
        (chat(n=9), "field-invalid", "n"),
        (chat(n="1"), "field-invalid", "n"),
        (chat(temperature=2.5), "field-invalid", "temperature"),
        (chat(top_k=10**30), "field-invalid", "top_k"),
        (chat(seed=2**70), "field-invalid", "seed"),
        (chat(stop=["a"] * 5), "too-many", "stop"),
        (chat(stop=[""]), "field-invalid", "stop"),
        (chat(logit_bias={"x": 1}), "field-invalid", "logit_bias"),
        (chat(top_logprobs=2), "fields-conflict", "top_logprobs"),
        (chat(n=2, temperature=0), "fields-conflict", "n"),
        (chat(min_tokens=3, max_tokens=2), "fields-conflict", "min_tokens"),
        (chat(tool_choice="required"), "tool-unknown", "tool_choice"),
        (chat(stream_options={"include_usage": True}), "fields-conflict", "stream_options"),
        (chat(response_format={"type": "json_schema"}), "fields-conflict", "response_format"),
        (
            chat(messages=[{"role": "assistant", "content": None}]),
            "field-missing",
            "messages[0].content",
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "media-refused",
            "messages[0].content[0]",
        ),
    ],
)
def test_a_refusal_names_the_place_in_our_own_words(body, code, param):
    found = refused(body)
    assert found[0] == code
    assert (found[1] or "").startswith(param or "")
    assert (found[1] is None) == (param is None)


def test_what_asks_for_nothing_is_accepted_and_what_changes_the_output_is_not():
    plain = sent(chat())
    assert sent(chat(echo=False, store=False, cache_salt=None, logit_bias=None)) == plain
    assert refused(chat(skip_special_tokens=False)) == ("decoding-refused", "skip_special_tokens")
    assert refused(chat(add_generation_prompt=False))[0] == "template-refused"


def test_a_schema_is_bounded():
    deep: dict = {}
    for _ in range(40):
        deep = {"items": deep}
    for schema in (deep, {"enum": ["x" * 70_000]}, {"enum": [1] * 5000}):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert refused(chat(response_format=wanted))[0] == "schema-too-large"
    for number in ("1e999", "9" * 40):
        text = json.dumps(chat(tools=[{"type": "function", "function": {"name": "f"}}]))
        body = text.replace('"name": "f"', f'"name": "f", "parameters": {{"a": {number}}}')
        with pytest.raises(BadRequest):
            parse(ChatRequest, body.encode(), limit=LIMIT)


def test_more_bytes_than_the_limit_are_too_large():
    with pytest.raises(TooLarge):
        parse(ChatRequest, json.dumps(chat()).encode(), limit=10)


def test_a_completion_takes_texts_and_not_token_ids():
    body = {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2}
    found = sent(body, kind=CompletionRequest)
    assert (found["prompt"], found["max_tokens"], found["logprobs"]) == (["a", "b"], 3, 2)
    for prompt in ([1, 2], [[1]], "", [], ["a"] * 17):
        assert refused({"model": MODEL, "prompt": prompt}, CompletionRequest)[1] == "prompt"


def test_every_message_of_the_table_is_a_sentence():
    for code, message in MESSAGES.items():
        assert code == code.lower()
        assert message[0].isupper() or message[0] == "'"
        assert message.endswith(".")
