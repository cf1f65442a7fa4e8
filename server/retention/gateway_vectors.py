"""A writer of requests in, out: everything a client of the gateway can write, a canary in each."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from server.retention import responses_vectors
from server.retention.vectors import (
    EITHER,
    FEWEST_TOKENS,
    REFUSED,
    Sent,
    Writer,
    called,
    function,
    shape,
    user,
)
from server.schemas.requests import ChatRequest, CompletionRequest
from server.schemas.responses import ResponsesRequest


def served(writer: Writer) -> Iterator[Sent]:
    """What the model answers."""
    yield from _conversations(writer)
    yield from _tools_and_formats(writer)
    yield from _completions(writer)
    yield from responses_vectors.served(writer)


def _conversations(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    yield writer.chat("prompt", messages=[user(at("prompt"))])
    yield writer.chat("parts", messages=[user([{"type": "text", "text": at("parts")}])])
    yield writer.chat("stream", messages=[user(at("stream"))], stream=True)
    yield writer.chat("choices", messages=[user(at("choices"))], n=2, temperature=1)
    yield writer.chat("logprobs", messages=[user(at("logprobs"))], logprobs=True, top_logprobs=2)
    for role in ("system", "developer"):
        yield writer.chat(role, messages=[{"role": role, "content": at(role)}, user("hello")])
    for name in ("content", "refusal", "reasoning", "reasoning_content"):
        said = {"role": "assistant", "content": "yes", name: at(f"history {name}")}
        yield writer.chat(f"history {name}", messages=[user("so?"), said, user("well")])
    yield writer.chat("message name", messages=[{**user("hello"), "name": at("message name")}])
    result = {"role": "tool", "tool_call_id": "call_1", "content": at("tool result")}
    yield writer.chat("tool result", messages=[user("look"), called(), result])
    for position, message in {
        "call id": called(identity=at("call id")),
        "call name": called(name=at("call name")),
        "call arguments": called(arguments=json.dumps({"x": at("call arguments")})),
        "call arguments, no JSON": called(arguments=at("call arguments, no JSON")),
        "call arguments, no object": called(
            arguments=json.dumps([at("call arguments, no object")])
        ),
        "call name, no JSON": called(name=at("call name, no JSON"), arguments="{"),
    }.items():
        yield writer.chat(position, messages=[user("look"), message, user("well")])


def _tools_and_formats(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    yield writer.chat("tool name", tools=[function(at("tool name"))])
    yield writer.chat("tool description", tools=[function(description=at("tool description"))])
    for position, schema in writer.schemas("tool"):
        yield writer.chat(position, tools=[function(parameters=schema)])
    forced = at("forced tool")
    yield writer.chat("forced tool", tools=[function(forced)], tool_choice=function(forced))
    for position, schema in writer.schemas("format"):
        yield writer.chat(position, response_format=shape(schema))
    yield writer.chat("format name", response_format=shape({"type": "object"}, at("format name")))
    described = shape({"type": "object"}, description=at("format description"))
    yield writer.chat("format description", response_format=described)


def _completions(writer: Writer) -> Iterator[Sent]:
    at = writer.canaries.at
    yield writer.chat("stop", stop=[at("stop"), "x"])
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        text: dict[str, Any] = {name: at(name)}
        yield writer.chat(name, **text)
    yield writer.chat("metadata", metadata={at("metadata"): at("metadata")})
    yield writer.completion("completion", prompt=at("completion"))
    yield writer.completion("completions", prompt=[at("completions"), at("completions")])
    yield writer.completion("completion stream", prompt=at("completion stream"), stream=True)
    yield writer.completion("completion stop", stop=at("completion stop"))
    headers = {"x-request-id": at("header"), at("header"): at("header"), "cookie": at("header")}
    yield Sent(
        "header", writer.chat("header").body, headers={**headers, "user-agent": at("header")}
    )


def wrong(writer: Writer) -> Iterator[Sent]:
    """Every field of the schemas with values of the wrong type."""
    kinds = (
        (ChatRequest, writer.chat),
        (CompletionRequest, writer.completion),
        (ResponsesRequest, writer.response),
    )
    for kind, make in kinds:
        for name, declared in kind.model_fields.items():
            position = f"{kind.__name__} {name}"
            canary = writer.canaries.at(position)
            for value in ({canary: [canary]}, [{canary: canary}], canary):
                yield make(position, EITHER, **{declared.alias or name: value})


def refused(writer: Writer) -> Iterator[Sent]:
    """What the gateway refuses before the engine sees it, or the engine after."""
    at = writer.canaries.at
    yield writer.chat("model", REFUSED, model=at("model"))
    yield writer.chat("field name", REFUSED, **{at("field name"): 1})
    yield writer.chat("message field", REFUSED, messages=[{**user("x"), at("message field"): 1}])
    yield writer.chat("role", REFUSED, messages=[{"role": at("role"), "content": "x"}])
    yield writer.chat(
        "part type", REFUSED, messages=[user([{"type": at("part type"), "text": "x"}])]
    )
    url = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:9/{at('media')}"}}
    yield writer.chat("media", REFUSED, messages=[user([url])])
    yield writer.chat("unknown tool", REFUSED, tool_choice=function(at("unknown tool")))
    yield writer.chat("bad tool name", REFUSED, tools=[function(at("bad tool name") + " ")])
    for stream in (False, True):
        how = "stream" if stream else "whole"
        times = writer.context // FEWEST_TOKENS
        words, text = (f"{at(f'{kind}, {how}')} " * times for kind in ("long", "long text"))
        yield writer.chat(f"long, {how}", REFUSED, messages=[user(words)], stream=stream)
        yield writer.completion(f"long text, {how}", REFUSED, prompt=text, stream=stream)
        for kind, schema in writer.bad_schemas(how):
            yield writer.chat(kind, EITHER, response_format=shape(schema), stream=stream)
            named = function(parameters=schema)
            yield writer.chat(kind, EITHER, tools=[named], tool_choice="required", stream=stream)
    yield from responses_vectors.refused(writer)
    yield from _raw(writer)


def _raw(writer: Writer) -> Iterator[Sent]:
    """Bodies that are no JSON, not ours, or too long."""
    bodies: dict[str, bytes] = {
        "malformed": b'{"messages": "%s',
        "text": b"%s",
        "list": b'["%s"]',
        "duplicate": b'{"%s": 1, "%s": 2}',
        "invalid UTF-8": b'{"model": "\xff%s"}',
        "lone surrogate": b'{"model": "\\ud800%s"}',
        "not a number": b'{"temperature": NaN, "%s": 1}',
        "huge number": b'{"seed": ' + b"9" * 5000 + b', "%s": 1}',
        "deep": b"[" * 50_000 + b"%s",
        "oversize": b'{"messages": "' + b"%s " * 40_000,
    }
    for position, body in bodies.items():
        canary = writer.canaries.at(position).encode()
        yield Sent(position, body.replace(b"%s", canary), statuses=REFUSED)
    packed = base64.b64encode(writer.canaries.at("base64").encode())
    yield Sent("base64", packed, headers={"content-encoding": "gzip"}, statuses=REFUSED)


def outside(writer: Writer) -> Iterator[Sent]:
    """Canaries around the body: paths, queries, headers, methods."""
    at = writer.canaries.at
    for path in ("/{}", "/v1/{}", "/v1/models/{}", "/v1/%2e%2e/{}"):
        position = f"path {path}"
        yield Sent(position, b"", path.format(at(position)), "GET", statuses=REFUSED)
    nonce = f"/v1/attestation/report?nonce={at('nonce')}"
    yield Sent("nonce", b"", nonce, "GET", statuses=REFUSED)
    for path in ("/v1/models", "/healthz", "/.well-known/tacit/keyset"):
        query = f"{path}?{at(f'query {path}')}={at(f'query {path}')}"
        yield Sent(f"query {path}", b"", query, "GET")
    plain = writer.plain
    query = f"{plain.path}?x={at('query of a request')}"
    yield Sent("query of a request", plain.body, query)
    for scheme in ("Bearer {}", "Bearer sk-tacit-{}", "{} x", "Basic {}"):
        position = f"key {scheme}"
        headers = {"authorization": scheme.format(at(position))}
        yield Sent(position, b"", "/v1/models", "GET", headers, statuses=REFUSED)
    media = {"content-type": f"text/{at('media type')}"}
    yield Sent("media type", plain.body, plain.path, headers=media, statuses=REFUSED)
    method = at("method").upper()
    yield Sent("method", b"", "/v1/models", method, statuses=REFUSED)
