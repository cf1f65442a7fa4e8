"""A writer of requests in, out: what the Responses API can be written, a canary in each place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.retention.vectors import EITHER, REFUSED, Sent, Writer


def served(writer: Writer) -> Iterator[Sent]:
    """What the model answers."""
    at = writer.canaries.at
    for stream in (False, True):
        position = f"response input, {'stream' if stream else 'whole'}"
        yield writer.response(position, input=at(position), stream=stream)
    yield writer.response("instructions", instructions=at("instructions"))
    for role in ("system", "developer", "user", "assistant"):
        position = f"response {role}"
        said = {"type": "message", "role": role, "content": at(position)}
        yield writer.response(position, input=[said, _user("well")])
    for position, item in _history(writer):
        yield writer.response(position, EITHER, input=[_user("look"), item, _user("well")])
    yield from _tools_and_formats(writer)
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        text: dict[str, Any] = {name: at(f"response {name}")}
        yield writer.response(f"response {name}", **text)
    kept = at("response metadata")
    yield writer.response("response metadata", metadata={kept: kept})


def _history(writer: Writer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Items of earlier answers, sent back."""
    at = writer.canaries.at
    yield "response call id", _call(call_id=at("response call id"))
    yield "response call name", _call(name=at("response call name"))
    words = json.dumps({"x": at("response call arguments")})
    yield "response call arguments", _call(arguments=words)
    output = {"type": "function_call_output", "call_id": "call_1"}
    yield "response call output", {**output, "output": at("response call output")}
    thought = {"type": "reasoning_text", "text": at("response thought")}
    yield "response thought", {"type": "reasoning", "summary": [], "content": [thought]}


def _tools_and_formats(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    position = "response tool name"
    yield writer.response(position, tools=[_tool(name=at(position))])
    position = "response tool description"
    yield writer.response(position, tools=[_tool(description=at(position))])
    for position, schema in writer.schemas("response tool"):
        yield writer.response(position, tools=[_tool(parameters=schema)])
    for position, schema in writer.schemas("response format"):
        yield writer.response(position, text=_format(schema))
    named = _format({"type": "object"}, name=at("response format name"))
    yield writer.response("response format name", text=named)
    described = _format({"type": "object"}, description=at("response format description"))
    yield writer.response("response format description", text=described)


def refused(writer: Writer) -> Iterator[Sent]:
    """What is refused before the engine sees it, or by the engine."""
    at = writer.canaries.at
    for name in ("previous_response_id", "conversation", "prompt", "request_id", "cache_salt"):
        text: dict[str, Any] = {name: at(f"response {name}")}
        yield writer.response(f"response {name}", REFUSED, **text)
    stored = {"type": "item_reference", "id": at("response item")}
    yield writer.response("response item", REFUSED, input=[stored])
    file = {"type": "input_file", "file_url": f"https://127.0.0.1:9/{at('response file')}"}
    said = {"role": "user", "content": [file]}
    yield writer.response("response file", REFUSED, input=[said])
    tool = {"type": "mcp", "server_url": f"https://127.0.0.1:9/{at('response server')}"}
    yield writer.response("response server", REFUSED, tools=[tool])
    for stream in (False, True):
        how = f"response {'stream' if stream else 'whole'}"
        for kind, schema in writer.bad_schemas(how):
            yield writer.response(kind, EITHER, text=_format(schema), stream=stream)


def _user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def _call(**fields: Any) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    return {**call, **fields}


def _tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": "look", **fields}


def _format(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "x", "schema": schema, **fields}}
