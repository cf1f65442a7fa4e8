"""A writer of requests in, out: what only the engine's own socket accepts, a canary in each."""

from __future__ import annotations

import json
from collections.abc import Iterator

from server.retention.vectors import EITHER, REFUSED, Sent, Writer, called, shape, user


def behind_the_gateway(writer: Writer) -> Iterator[Sent]:
    """What only the engine's socket accepts: fields and routes through which vLLM logs content.

    `seed` is missing on purpose: on the CPU it ends the engine.
    """
    at = writer.canaries.at
    yield writer.chat("engine model", REFUSED, model=at("engine model"))
    yield Sent("engine JSON", f'{{"messages": "{at("engine JSON")}'.encode(), statuses=REFUSED)
    for position, message in {
        "engine call, no JSON": called(name=at("engine call, no JSON"), arguments="{"),
        "engine call, no object": called(name=at("engine call, no object"), arguments="[1]"),
    }.items():
        yield writer.chat(position, EITHER, messages=[user("look"), message, user("well")])
    for stream in (False, True):
        how = f"engine {'stream' if stream else 'whole'}"
        for kind, schema in writer.bad_schemas(how):
            yield writer.chat(kind, EITHER, response_format=shape(schema), stream=stream)
        grammars = {
            "grammar": f"root ::= {at(f'grammar, {how}')}",
            "regex": at(f"regex, {how}") + "[",
        }
        for kind, text in grammars.items():
            position = f"{kind}, {how}"
            yield writer.chat(position, EITHER, structured_outputs={kind: text}, stream=stream)
            broken = {kind: text}
            yield writer.completion(position, EITHER, structured_outputs=broken, stream=stream)
    yield from _controls(writer)
    yield from _responses(writer)
    yield from _around(writer)


def _controls(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    for name in ("request_id", "cache_salt", "chat_template", "user", "bad_words", "tool_choice"):
        position = f"engine {name}"
        for value in (at(position), [at(position)], {at(position): at(position)}):
            yield writer.chat(position, range(200, 600), **{name: value})
    options = {"chat_template": "{{ raise_exception('" + at("engine template") + "') }}"}
    yield writer.chat("engine template", EITHER, **options)
    yield writer.chat("engine options", EITHER, chat_template_kwargs={at("engine options"): 1})
    yield writer.chat("engine type", range(400, 600), structured_outputs=[at("engine type")])


def _responses(writer: Writer) -> Iterator[Sent]:
    """Items whose ids vLLM logs, and names it does not know."""
    at = writer.canaries.at
    text = [{"type": "reasoning_text", "text": "x"}]
    position = "engine thought id"
    thought = {"type": "reasoning", "id": at(position), "summary": [], "content": text}
    yield writer.response(position, range(200, 600), input=[user("x"), thought, user("y")])
    position = "engine call item"
    call = {"type": "function_call", "id": at(position), "call_id": at(position), "name": "look"}
    for words in ("{}", "{"):
        items = [user("x"), {**call, "arguments": words}, user("y")]
        yield writer.response(position, range(200, 600), input=items)
    yield writer.response("engine response model", REFUSED, model=at("engine response model"))
    stored = at("engine previous response")
    yield writer.response("engine previous response", EITHER, previous_response_id=stored)


def _around(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    yield Sent("engine path", b"", f"/{at('engine path')}", "GET", statuses=REFUSED)
    query = f"/health?{at('engine query')}={at('engine query')}"
    yield Sent("engine query", b"", query, "GET")
    headers = {"x-request-id": at("engine header"), at("engine header"): "x"}
    yield Sent("engine header", writer.chat("").body, headers=headers)
    for path in ("/v1/messages", "/v1/responses", "/tokenize", "/invocations"):
        position = f"engine {path}"
        body = json.dumps(
            {"model": writer.model, "messages": [user(at(position))], "max_tokens": 4}
        )
        yield Sent(position, body.encode(), path, statuses=REFUSED)
