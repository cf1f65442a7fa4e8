"""The whole chain, real: software TDX, broker, sealed weights, vLLM, the unchanged openai SDK."""

import asyncio
import json

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from attestation.client import attested_async_client, attested_client
from scripts.chain.installation import MODEL
from scripts.chain.processes import TACIT, run

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client(service):
    with attested_client(service.url, service.policy) as verified:
        yield OpenAI(base_url=f"{service.url}/v1", api_key=service.api_key, http_client=verified)


def ask(client: OpenAI, question: str, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(
        model=MODEL, messages=messages, **{"temperature": 0, **options}
    )


def test_the_service_verifies_in_plain_words_and_says_simulated(service):
    words = run([TACIT, "verify", "service", service.url, "--policy", service.policy_file])
    assert words.startswith("SIMULATED")
    assert "affirmed until" in words
    assert f"model {MODEL}=" in words
    assert "1 hopper GPU, mode spt" in words
    assert "retention none, training none" in words


def test_the_verdict_is_a_document_too(service):
    verify = [TACIT, "verify", "service", service.url, "--policy", service.policy_file, "--json"]
    verdict = json.loads(run(verify))
    assert verdict["verdict"] == "affirmed"
    assert verdict["simulated"] is True
    assert all(check["passed"] for check in verdict["checks"])


def test_a_saved_report_gives_the_same_verdict_offline(service, tmp_path):
    saved = tmp_path / "report.json"
    policy = ["--policy", service.policy_file]
    run([TACIT, "verify", "service", service.url, *policy, "--save", saved])
    assert "affirmed" in run([TACIT, "verify", "report", saved, *policy])


def test_a_documented_question_gets_its_answer(client, questions):
    for item in questions["questions"][:3]:
        answer = ask(client, item["ask"])
        assert answer.choices[0].message.content.strip() == item["answer"]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens > 0


def test_the_model_thinks_before_it_answers(client, questions):
    item = questions["questions"][0]
    message = ask(client, item["ask"]).choices[0].message
    assert item["reasoning"] in message.reasoning_content
    assert "<think>" not in message.content


def test_thinking_can_be_switched_off(client, questions):
    item = questions["questions"][0]
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    message = ask(client, item["ask"], extra_body=off).choices[0].message
    assert message.content.strip() == item["answer"]
    assert not getattr(message, "reasoning_content", None)


def test_a_stream_carries_thinking_and_answer_apart(client, questions):
    item = questions["questions"][0]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    thought = answer = ""
    usage = None
    for chunk in ask(client, item["ask"], **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            answer += choice.delta.content or ""
    assert item["reasoning"] in thought
    assert answer.strip() == item["answer"]
    assert usage.completion_tokens > 0


def test_a_tool_is_called_and_its_result_is_used(client, questions):
    tool = questions["tool_question"]
    messages = [{"role": "user", "content": tool["ask"]}]
    options = {"model": MODEL, "tools": [questions["tool"]], "temperature": 0}
    first = client.chat.completions.create(messages=messages, **options).choices[0]
    assert first.finish_reason == "tool_calls"
    call = first.message.tool_calls[0]
    assert call.function.name == tool["call"]["name"]
    assert json.loads(call.function.arguments) == tool["call"]["arguments"]
    messages += [
        first.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": tool["result"]},
    ]
    second = client.chat.completions.create(messages=messages, **options).choices[0]
    assert second.message.content.strip() == tool["answer"]


def test_a_json_schema_is_kept(client):
    schema = {
        "type": "object",
        "properties": {"kept": {"type": "boolean"}},
        "required": ["kept"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    answer = ask(client, "What is Tacit?", response_format=shape, extra_body=off, max_tokens=64)
    assert isinstance(json.loads(answer.choices[0].message.content)["kept"], bool)


def test_completions_answer(client):
    answer = client.completions.create(model=MODEL, prompt="Tacit", max_tokens=4, temperature=0)
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 4


def test_the_async_client_streams_several_at_once(service, questions):
    item = questions["questions"][1]

    async def one(client: AsyncOpenAI) -> str:
        messages = [{"role": "user", "content": item["ask"]}]
        text = ""
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, temperature=0
        ):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text.strip()

    async def several() -> list[str]:
        async with attested_async_client(service.url, service.policy) as verified:
            base = f"{service.url}/v1"
            client = AsyncOpenAI(base_url=base, api_key=service.api_key, http_client=verified)
            return await asyncio.gather(*(one(client) for _ in range(6)))

    assert asyncio.run(several()) == [item["answer"]] * 6


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]


def test_another_key_is_refused(service):
    with attested_client(service.url, service.policy) as verified:
        wrong = service.api_key[:-1] + ("0" if service.api_key[-1] != "0" else "1")
        client = OpenAI(base_url=f"{service.url}/v1", api_key=wrong, http_client=verified)
        with pytest.raises(openai.AuthenticationError):
            ask(client, "What is Tacit?")


@pytest.mark.parametrize(
    "path", ["/metrics", "/version", "/tokenize", "/v1/load_lora_adapter", "/docs", "/invocations"]
)
def test_what_vllm_offers_beside_the_api_is_not_there(service, path):
    with attested_client(service.url, service.policy) as verified:
        headers = {"authorization": f"Bearer {service.api_key}"}
        for method in ("GET", "POST"):
            answer = verified.request(method, f"{service.url}{path}", headers=headers)
            assert answer.status_code == 404


def test_a_prompt_longer_than_the_model_allows_is_named(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "word " * 3000)
    assert refused.value.code == "context_length_exceeded"


def test_the_port_speaks_tls_only(service):
    with pytest.raises(httpx2.TransportError):
        httpx2.get(service.url.replace("https", "http"), trust_env=False)
