"""The public API over real TLS, with the unchanged OpenAI SDK."""

from __future__ import annotations

import httpx2
import openai
import pytest

from tests.gateway_kit import MODEL, EchoEngine, Gateway, chat, prepared, running


@pytest.fixture(scope="module")
def gateway():
    with running(prepared()) as served:
        yield served


def sdk(gateway: Gateway, **options) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=gateway.api_keys[0],
        http_client=httpx2.Client(verify=gateway.trust(), timeout=20),
        max_retries=0,
        **options,
    )


def test_the_sdk_completes_a_chat(gateway):
    with sdk(gateway) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello world"}]
        )
    assert answer.choices[0].message.content == "hello world"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == 8


def test_the_sdk_streams_a_chat_under_one_id(gateway):
    with sdk(gateway) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "one two three"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == "one two three "
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.completion_tokens == 3
