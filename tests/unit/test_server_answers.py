"""Answers: what the engine says is rebuilt from allow-listed fields, byte for byte in content."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.confidential import Confidential
from server.schemas.answers import BadAnswer, Stamp, Usage, rebuild

STAMP = Stamp(id="chatcmpl-ours", model="qwen3", created=1790000000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def rebuilt(value, *, with_usage=True) -> dict:
    found = rebuild(Confidential(json.dumps(value).encode()), STAMP, with_usage=with_usage)
    return json.loads(found.json.reveal())


def chunk(**fields) -> dict:
    return {"object": "chat.completion.chunk", "id": "engine", "choices": [], **fields}


def test_the_stamp_replaces_what_the_engine_calls_itself():
    found = rebuilt(chunk(model="engine-name", created=5, system_fingerprint="x"))
    assert found == {
        "id": "chatcmpl-ours",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "qwen3",
        "choices": [],
    }


def test_log_probabilities_and_tool_calls_pass_unchanged():
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    logprobs = {"content": [{**token, "top_logprobs": [token]}]}
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "logprobs": logprobs}
    assert rebuilt(chunk(choices=[choice]))["choices"] == [choice]


def test_engine_fields_inside_choices_and_usage_are_dropped():
    choice = {
        "index": 0,
        "delta": {"content": "x", "prompt_text": "P"},
        "token_ids": [1],
        "stop_reason": "secret stop",
        "routed_experts": "x",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    found = rebuilt(
        chunk(choices=[choice], usage={**usage, "prompt_tokens_details": {"cached_tokens": 1}})
    )
    assert found["choices"] == [{"index": 0, "delta": {"content": "x"}}]
    assert found["usage"] == usage


def test_a_chunk_of_counts_alone_is_kept_from_whoever_did_not_ask():
    data = json.dumps(chunk(usage={"prompt_tokens": 1, "completion_tokens": 2})).encode()
    found = rebuild(Confidential(data), STAMP, with_usage=False)
    assert found.json.reveal() == b""
    assert found.usage == Usage(1, 2)


def test_half_a_surrogate_pair_survives():
    choice = {"index": 0, "delta": {"content": "\ud83d"}}
    assert rebuilt(chunk(choices=[choice]))["choices"] == [choice]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\n", "\r"])
def test_an_event_is_one_line_to_every_client(mark):
    choice = {"index": 0, "delta": {"content": f"a{mark}b"}}
    data = Confidential(json.dumps(chunk(choices=[choice])).encode())
    text = rebuild(data, STAMP, with_usage=True).json.reveal().decode()
    assert len(text.splitlines()) == 1
    assert json.loads(text)["choices"] == [choice]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[DONE]",
        b"[]",
        b"{}",
        b'{"error": {"message": "CANARY"}}',
        b'{"object": "error", "choices": []}',
        b'{"object": "chat.completion"}',
        b'{"object": "chat.completion", "choices": {}}',
        b'{"object": "chat.completion", "choices": ["CANARY"]}',
        b'{"object": "chat.completion", "choices": [{"index": "CANARY"}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_anything_else_is_no_answer(data):
    with pytest.raises(BadAnswer) as caught:
        rebuild(Confidential(data), STAMP, with_usage=True)
    assert "CANARY" not in repr(caught.value)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "object", "id", "error"]), JSON))
def test_no_json_breaks_the_rebuilding(value):
    value = {"object": "chat.completion", **value}
    with contextlib.suppress(BadAnswer):
        rebuild(Confidential(json.dumps(value).encode()), STAMP, with_usage=True)
