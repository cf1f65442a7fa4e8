"""The Responses API of the running service, through the unchanged openai SDK: stateless."""

import json

import openai
import pytest
from openai import OpenAI

from attestation.client import attested_client
from scripts.chain.installation import MODEL

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def client(service):
    with attested_client(service.url, service.policy) as verified:
        yield OpenAI(base_url=f"{service.url}/v1", api_key=service.api_key, http_client=verified)


def respond(client: OpenAI, given, **options):
    options = {"temperature": 0, "max_output_tokens": 400, **options}
    return client.responses.create(model=MODEL, input=given, **options)


def function(questions) -> dict:
    return {"type": "function", **questions["tool"]["function"]}


def test_a_response_has_thoughts_and_text(client, questions):
    item = questions["questions"][0]
    response = respond(client, item["ask"], store=False)
    assert response.id.startswith("resp-")
    assert response.status == "completed"
    assert response.output_text.strip() == item["answer"]
    thought = next(each for each in response.output if each.type == "reasoning")
    assert item["reasoning"] in thought.content[0].text
    assert response.usage.output_tokens > 0


def test_thinking_is_switched_off_by_effort(client, questions):
    item = questions["questions"][0]
    response = respond(client, item["ask"], reasoning={"effort": "none"})
    assert [each.type for each in response.output] == ["message"]
    assert response.output_text.strip() == item["answer"]


def test_what_was_said_is_sent_back_and_stored_nowhere(client, questions):
    first, second = questions["questions"][:2]
    said = [{"role": "user", "content": first["ask"]}]
    said += [each.model_dump() for each in respond(client, said).output]
    said.append({"role": "user", "content": second["ask"]})
    response = respond(client, said, reasoning={"effort": "none"})
    assert response.status == "completed"
    assert response.store is False


def test_a_stream_ends_with_the_whole_response(client, questions):
    item = questions["questions"][0]
    kinds, text, last = [], "", None
    for event in respond(client, item["ask"], stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert "response.reasoning_text.delta" in kinds
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert text.strip() == item["answer"]


def test_the_sdk_s_own_stream_accumulates_it(client, questions):
    item = questions["questions"][1]
    with client.responses.stream(model=MODEL, input=item["ask"], temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text.strip() == item["answer"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called_and_its_output_is_used(client, questions, stream):
    tool = questions["tool_question"]
    said = [{"role": "user", "content": tool["ask"]}]
    options = {"tools": [function(questions)], "stream": stream}
    answered = respond(client, said, **options)
    output = [*answered][-1].response.output if stream else answered.output
    call = next(each for each in output if each.type == "function_call")
    assert call.name == tool["call"]["name"]
    assert json.loads(call.arguments) == tool["call"]["arguments"]
    said += [each.model_dump() for each in output]
    said.append({"type": "function_call_output", "call_id": call.call_id, "output": tool["result"]})
    response = respond(client, said, tools=[function(questions)])
    assert response.output_text.strip() == tool["answer"]


def test_a_json_schema_is_kept(client):
    schema = {
        "type": "object",
        "properties": {"kept": {"type": "boolean"}},
        "required": ["kept"],
        "additionalProperties": False,
    }
    shape = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    response = respond(client, "What is Tacit?", text=shape, reasoning={"effort": "none"})
    assert isinstance(json.loads(response.output_text)["kept"], bool)


def test_an_answer_that_was_cut_says_so(client):
    response = respond(client, "What is Tacit?", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"store": True}, "store-refused"),
        ({"background": True}, "store-refused"),
        ({"previous_response_id": "resp_1"}, "store-refused"),
        ({"tools": [{"type": "web_search"}]}, "egress-refused"),
        ({"prompt": {"id": "pmpt_1"}}, "template-refused"),
    ],
)
def test_what_would_be_stored_or_fetched_is_refused(client, field, code):
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, "What is Tacit?", **field)
    assert refused.value.code == code


def test_a_prompt_longer_than_the_model_allows_is_named(client):
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, "word " * 3000)
    assert refused.value.code == "context_length_exceeded"


def test_no_response_can_be_asked_for_later(client, questions):
    response = respond(client, questions["questions"][0]["ask"])
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
