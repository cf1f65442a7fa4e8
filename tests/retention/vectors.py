"""Requests with a canary in every place a client can write to, at the gateway and at the engine."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from scripts.chain.installation import MODEL
from server.retention.canary import Canaries
from server.schemas.requests import ChatRequest, CompletionRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
REFUSED = range(400, 500)
SERVED = range(200, 201)
EITHER = range(200, 500)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, its own canary, and the statuses it may be answered with."""

    position: str
    body: bytes
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    statuses: range = SERVED


def chat(position: str, statuses: range = SERVED, **fields: Any) -> Sent:
    """A short chat with `fields` in it."""
    messages = [{"role": "user", "content": "What is Tacit?"}]
    short = {"model": MODEL, "messages": messages, "max_tokens": 4, "temperature": 0}
    return Sent(position, json.dumps({**short, **fields}).encode(), statuses=statuses)


def completion(position: str, statuses: range = SERVED, **fields: Any) -> Sent:
    """A short completion with `fields` in it."""
    short = {"model": MODEL, "prompt": "Tacit", "max_tokens": 4, "temperature": 0}
    body = json.dumps({**short, **fields}).encode()
    return Sent(position, body, path=COMPLETIONS, statuses=statuses)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def function(name: str = "look", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def called(identity: str = "call_1", name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def shape(schema: dict[str, Any], name: str = "x", **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **fields}}


def served(canaries: Canaries) -> Iterator[Sent]:
    """What the model answers."""
    at = canaries.at
    yield chat("prompt", messages=[user(at("prompt"))])
    yield chat("parts", messages=[user([{"type": "text", "text": at("parts")}])])
    yield chat("stream", messages=[user(at("stream"))], stream=True)
    yield chat("choices", messages=[user(at("choices"))], n=2, temperature=1)
    yield chat("logprobs", messages=[user(at("logprobs"))], logprobs=True, top_logprobs=2)
    for role in ("system", "developer"):
        yield chat(role, messages=[{"role": role, "content": at(role)}, user("hello")])
    for name in ("content", "refusal", "reasoning", "reasoning_content"):
        said = {"role": "assistant", "content": "yes", name: at(f"history {name}")}
        yield chat(f"history {name}", messages=[user("so?"), said, user("well")])
    yield chat("message name", messages=[{**user("hello"), "name": at("message name")}])
    result = {"role": "tool", "tool_call_id": "call_1", "content": at("tool result")}
    yield chat("tool result", messages=[user("look"), called(), result])
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
        yield chat(position, messages=[user("look"), message, user("well")])
    yield chat("tool name", tools=[function(at("tool name"))])
    yield chat("tool description", tools=[function(description=at("tool description"))])
    for position, schema in schemas(canaries, "tool"):
        yield chat(position, tools=[function(parameters=schema)])
    forced = at("forced tool")
    yield chat("forced tool", tools=[function(forced)], tool_choice=function(forced))
    for position, schema in schemas(canaries, "format"):
        yield chat(position, response_format=shape(schema))
    yield chat("format name", response_format=shape({"type": "object"}, at("format name")))
    described = shape({"type": "object"}, description=at("format description"))
    yield chat("format description", response_format=described)
    yield chat("stop", stop=[at("stop"), "x"])
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        yield chat(name, **{name: at(name)})
    yield chat("metadata", metadata={at("metadata"): at("metadata")})
    yield completion("completion", prompt=at("completion"))
    yield completion("completions", prompt=[at("completions"), at("completions")])
    yield completion("completion stream", prompt=at("completion stream"), stream=True)
    yield completion("completion stop", stop=at("completion stop"))
    headers = {"x-request-id": at("header"), at("header"): at("header"), "cookie": at("header")}
    yield Sent("header", chat("header").body, headers={**headers, "user-agent": at("header")})


def schemas(canaries: Canaries, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON Schemas that engines support, with a canary in each kind of place."""
    name, words, values, constant = (
        canaries.at(f"{where} {kind}") for kind in ("property", "words", "values", "constant")
    )
    yield f"{where} property", _object({name: {"type": "string"}})
    yield f"{where} words", _object({"x": {"type": "string", "description": words}})
    yield f"{where} values", _object({"x": {"enum": [values, "y"]}})
    yield f"{where} constant", _object({"x": {"const": constant}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def wrong(canaries: Canaries) -> Iterator[Sent]:
    """Every field of the schemas with values of the wrong type."""
    for kind, make in ((ChatRequest, chat), (CompletionRequest, completion)):
        for name, declared in kind.model_fields.items():
            position = f"{kind.__name__} {name}"
            canary = canaries.at(position)
            for value in ({canary: [canary]}, [{canary: canary}], canary):
                yield make(position, EITHER, **{declared.alias or name: value})


def refused(canaries: Canaries) -> Iterator[Sent]:
    """What the gateway refuses before the engine sees it, or the engine after."""
    at = canaries.at
    yield chat("model", REFUSED, model=at("model"))
    yield chat("field name", REFUSED, **{at("field name"): 1})
    yield chat("message field", REFUSED, messages=[{**user("x"), at("message field"): 1}])
    yield chat("role", REFUSED, messages=[{"role": at("role"), "content": "x"}])
    yield chat("part type", REFUSED, messages=[user([{"type": at("part type"), "text": "x"}])])
    url = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:9/{at('media')}"}}
    yield chat("media", REFUSED, messages=[user([url])])
    yield chat("unknown tool", REFUSED, tool_choice=function(at("unknown tool")))
    yield chat("bad tool name", REFUSED, tools=[function(at("bad tool name") + " ")])
    for stream in (False, True):
        how = "stream" if stream else "whole"
        words = f"{at(f'long, {how}')} " * 400
        yield chat(f"long, {how}", REFUSED, messages=[user(words)], stream=stream)
        yield completion(f"long text, {how}", REFUSED, prompt=words, stream=stream)
        for kind, schema in bad_schemas(canaries, how):
            yield chat(kind, EITHER, response_format=shape(schema), stream=stream)
            named = function(parameters=schema)
            yield chat(kind, EITHER, tools=[named], tool_choice="required", stream=stream)
    yield from raw(canaries)


def bad_schemas(canaries: Canaries, how: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON Schemas at which grammar compilers fail, each in their own way."""
    names = ("pattern", "type", "reference", "format", "bounds")
    at = {name: canaries.at(f"bad {name}, {how}") for name in names}
    bad: dict[str, dict[str, Any]] = {
        "pattern": {"type": "string", "pattern": f"(?<={at['pattern']})["},
        "type": {"type": at["type"]},
        "reference": {"$ref": f"#/$defs/{at['reference']}"},
        "format": {"type": "string", "format": at["format"], "not": {"const": at["format"]}},
        "bounds": {"type": "string", "minLength": 9, "maxLength": 1, "title": at["bounds"]},
    }
    for name, schema in bad.items():
        yield f"bad {name}, {how}", _object({"x": schema})


def raw(canaries: Canaries) -> Iterator[Sent]:
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
        canary = canaries.at(position).encode()
        yield Sent(position, body.replace(b"%s", canary), statuses=REFUSED)
    packed = base64.b64encode(canaries.at("base64").encode())
    yield Sent("base64", packed, headers={"content-encoding": "gzip"}, statuses=REFUSED)


def outside(canaries: Canaries) -> Iterator[Sent]:
    """Canaries around the body: paths, queries, headers, methods."""
    at = canaries.at
    for path in ("/{}", "/v1/{}", "/v1/models/{}", "/v1/%2e%2e/{}"):
        position = f"path {path}"
        yield Sent(position, b"", path.format(at(position)), "GET", statuses=REFUSED)
    nonce = f"/v1/attestation/report?nonce={at('nonce')}"
    yield Sent("nonce", b"", nonce, "GET", statuses=REFUSED)
    for path in ("/v1/models", "/healthz", "/.well-known/tacit/keyset"):
        query = f"{path}?{at(f'query {path}')}={at(f'query {path}')}"
        yield Sent(f"query {path}", b"", query, "GET")
    query = f"{CHAT}?x={at('query of a chat')}"
    yield Sent("query of a chat", chat("").body, query)
    for scheme in ("Bearer {}", "Bearer sk-tacit-{}", "{} x", "Basic {}"):
        position = f"key {scheme}"
        headers = {"authorization": scheme.format(at(position))}
        yield Sent(position, b"", "/v1/models", "GET", headers, statuses=REFUSED)
    media = {"content-type": f"text/{at('media type')}"}
    yield Sent("media type", chat("").body, headers=media, statuses=REFUSED)
    method = at("method").upper()
    yield Sent("method", b"", "/v1/models", method, statuses=REFUSED)


def behind_the_gateway(canaries: Canaries) -> Iterator[Sent]:
    """What only the engine's socket accepts: fields and routes through which vLLM logs content.

    `seed` is missing on purpose: on the CPU it ends the engine.
    """
    at = canaries.at
    yield chat("engine model", REFUSED, model=at("engine model"))
    yield Sent("engine JSON", f'{{"messages": "{at("engine JSON")}'.encode(), statuses=REFUSED)
    for position, message in {
        "engine call, no JSON": called(name=at("engine call, no JSON"), arguments="{"),
        "engine call, no object": called(name=at("engine call, no object"), arguments="[1]"),
    }.items():
        yield chat(position, EITHER, messages=[user("look"), message, user("well")])
    for stream in (False, True):
        how = f"engine {'stream' if stream else 'whole'}"
        for kind, schema in bad_schemas(canaries, how):
            yield chat(kind, EITHER, response_format=shape(schema), stream=stream)
        grammars = {
            "grammar": f"root ::= {at(f'grammar, {how}')}",
            "regex": at(f"regex, {how}") + "[",
        }
        for kind, text in grammars.items():
            position = f"{kind}, {how}"
            yield chat(position, EITHER, structured_outputs={kind: text}, stream=stream)
            broken = {kind: text}
            yield completion(position, EITHER, structured_outputs=broken, stream=stream)
    for name in ("request_id", "cache_salt", "chat_template", "user", "bad_words", "tool_choice"):
        position = f"engine {name}"
        for value in (at(position), [at(position)], {at(position): at(position)}):
            yield chat(position, range(200, 600), **{name: value})
    options = {"chat_template": "{{ raise_exception('" + at("engine template") + "') }}"}
    yield chat("engine template", EITHER, **options)
    yield chat("engine options", EITHER, chat_template_kwargs={at("engine options"): 1})
    yield chat("engine type", range(400, 600), structured_outputs=[at("engine type")])
    yield Sent("engine path", b"", f"/{at('engine path')}", "GET", statuses=REFUSED)
    query = f"/health?{at('engine query')}={at('engine query')}"
    yield Sent("engine query", b"", query, "GET")
    headers = {"x-request-id": at("engine header"), at("engine header"): "x"}
    yield Sent("engine header", chat("").body, headers=headers)
    for path in ("/v1/messages", "/v1/responses", "/tokenize", "/invocations"):
        position = f"engine {path}"
        body = json.dumps({"model": MODEL, "messages": [user(at(position))], "max_tokens": 4})
        yield Sent(position, body.encode(), path, statuses=REFUSED)
