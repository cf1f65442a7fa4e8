"""What the chat API promises beside the answer, on the real engine through the openai SDK."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict

from attestation.client import attested_async_client, attested_client
from scripts.chain.installation import MODEL

pytestmark = pytest.mark.engine

QUICK = {"chat_template_kwargs": {"enable_thinking": False}}


class Kept(BaseModel):
    """A shape that a model answers in."""

    model_config = ConfigDict(extra="forbid")

    kept: bool
    where: Literal["memory", "nowhere"]


@pytest.fixture(scope="module")
def client(service):
    with attested_client(service.url, service.policy) as verified:
        yield OpenAI(base_url=f"{service.url}/v1", api_key=service.api_key, http_client=verified)


def ask(client: OpenAI, question: str = "What is Tacit?", **options):
    messages = [{"role": "user", "content": question}]
    given = {"temperature": 0, "extra_body": QUICK, **options}
    return client.chat.completions.create(model=MODEL, messages=messages, **given)


def test_n_gives_as_many_answers_whole_and_streamed(client):
    whole = ask(client, n=3, temperature=1, max_tokens=4)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens <= 12
    streamed = ask(client, n=2, temperature=1, max_tokens=4, stream=True)
    assert {choice.index for chunk in streamed for choice in chunk.choices} == {0, 1}


def test_log_probabilities_name_the_tokens_of_the_answer(client):
    choice = ask(client, logprobs=True, top_logprobs=3, max_tokens=6).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.logprob <= 0
    plain = client.completions.create(
        model=MODEL, prompt="Tacit", max_tokens=3, temperature=0, logprobs=2
    )
    assert len(plain.choices[0].logprobs.tokens) == 3


def test_log_probabilities_stream_with_their_tokens(client):
    chunks = list(ask(client, logprobs=True, top_logprobs=1, max_tokens=4, stream=True))
    found = [
        token.token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(found) == "".join(said) != ""


@pytest.mark.parametrize("stop", ["Qwen3", ["nothing like it", "Qwen3"]])
def test_an_answer_ends_before_a_stop_text(client, stop):
    choice = ask(client, stop=stop).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content.strip() == "Tacit serves"


def test_a_seed_is_taken_and_no_seed_ends_the_engine(client):
    # on the CPU vLLM would end at a seeded prompt that is read in parts, so it gets none
    long = "word " * 300
    for seed in (0, -1, 2**63 - 1):
        assert ask(client, long, seed=seed, max_tokens=2, temperature=1).choices[0].message
    greedy = {ask(client, seed=7, max_tokens=8).choices[0].message.content for _ in range(2)}
    assert len(greedy) == 1


def test_a_limit_of_tokens_is_kept_and_said(client):
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = ask(client, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3


def test_effort_none_switches_thinking_off_and_any_other_on(client, questions):
    item = questions["questions"][0]
    quiet = ask(client, item["ask"], reasoning_effort="none", extra_body={})
    assert not getattr(quiet.choices[0].message, "reasoning_content", None)
    loud = ask(client, item["ask"], reasoning_effort="low", extra_body={})
    assert item["reasoning"] in loud.choices[0].message.reasoning_content


def test_a_stream_counts_its_tokens_only_when_asked(client):
    assert all(chunk.usage is None for chunk in ask(client, stream=True, max_tokens=4))
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4}
    *before, last = ask(client, **options)
    assert all(chunk.usage is None for chunk in before)
    assert last.choices == []
    assert last.usage.completion_tokens == 4


def test_a_tool_call_streams_in_parts_that_make_it_whole(client, questions):
    tool = questions["tool_question"]
    name, words, ends = "", "", set()
    for chunk in ask(client, tool["ask"], tools=[questions["tool"]], stream=True):
        for choice in chunk.choices:
            ends.add(choice.finish_reason)
            for call in choice.delta.tool_calls or ():
                name += call.function.name or ""
                words += call.function.arguments or ""
    assert name == tool["call"]["name"]
    assert json.loads(words) == tool["call"]["arguments"]
    assert "tool_calls" in ends


def test_a_tool_can_be_forbidden_forced_and_required(client, questions):
    tool, asked = questions["tool"], questions["tool_question"]["ask"]
    named = {"type": "function", "function": {"name": tool["function"]["name"]}}
    none = ask(client, tools=[tool], tool_choice="none", max_tokens=16).choices[0]
    assert none.message.content
    assert not none.message.tool_calls
    for choice in (named, "required"):
        found = ask(client, asked, tools=[tool], tool_choice=choice, max_tokens=128).choices[0]
        call = found.message.tool_calls[0]
        assert call.function.name == tool["function"]["name"]
        assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_one_call_at_most_where_parallel_ones_are_switched_off(client, questions):
    asked, tools = questions["tool_question"]["ask"], [questions["tool"]]
    options = {"tools": tools, "tool_choice": "required", "max_tokens": 128}
    for parallel in (True, False):
        answer = ask(client, asked, parallel_tool_calls=parallel, **options)
        found = answer.choices[0].message.tool_calls
        assert len(found) >= 1
        assert parallel or len(found) == 1
        assert len({call.id for call in found}) == len(found)


def test_several_results_of_parallel_calls_can_be_sent_back(client, questions):
    tool = questions["tool_question"]
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
        }
        for number, city in enumerate(("Paris", "Bern"))
    ]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": tool["result"]} for call in calls
    ]
    answer = client.chat.completions.create(
        model=MODEL,
        tools=[questions["tool"]],
        max_tokens=8,
        messages=[
            {"role": "user", "content": tool["ask"]},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *results,
        ],
        extra_body=QUICK,
    )
    assert answer.choices[0].message.role == "assistant"


def test_the_sdk_parses_an_answer_of_a_schema(client):
    messages = [{"role": "user", "content": "What does Tacit keep of my prompt?"}]
    answer = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Kept, max_tokens=64, extra_body=QUICK
    )
    assert isinstance(answer.choices[0].message.parsed, Kept)


def test_a_schema_is_kept_in_a_stream_too(client):
    schema = {"name": "kept", "schema": Kept.model_json_schema()}
    shape = {"type": "json_schema", "json_schema": schema}
    chunks = ask(client, response_format=shape, max_tokens=64, stream=True)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert Kept.model_validate_json(said)


def test_any_object_of_json_is_one(client):
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=64)
    said = answer.choices[0].message.content
    assert said.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(said), dict)


def test_the_asynchronous_client_calls_tools_as_well(service, questions):
    tool = questions["tool_question"]

    async def call():
        async with attested_async_client(service.url, service.policy) as verified:
            asking = AsyncOpenAI(
                base_url=f"{service.url}/v1", api_key=service.api_key, http_client=verified
            )
            return await asking.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": tool["ask"]}],
                tools=[questions["tool"]],
                temperature=0,
            )

    (called,) = asyncio.run(call()).choices[0].message.tool_calls
    assert json.loads(called.function.arguments) == tool["call"]["arguments"]
