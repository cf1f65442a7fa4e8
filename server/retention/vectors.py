"""What requests with canaries are made of: fields in, one request and what may answer it out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from server.retention.canary import Canaries

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
REFUSED = range(400, 500)
SERVED = range(200, 201)
EITHER = range(200, 500)
FEWEST_TOKENS = 8
"""A canary has more tokens than this, whatever the tokenizer: it is 32 random characters."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, its own canary, and the statuses it may be answered with."""

    position: str
    body: bytes
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    statuses: range = SERVED


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def function(name: str = "look", **fields: Any) -> dict[str, Any]:
    """A tool."""
    return {"type": "function", "function": {"name": name, **fields}}


def called(identity: str = "call_1", name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    """A turn of the assistant that calls a function."""
    call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def shape(schema: dict[str, Any], name: str = "x", **fields: Any) -> dict[str, Any]:
    """A `response_format` that asks for `schema`."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **fields}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes requests to one model, short ones where it can."""

    canaries: Canaries
    model: str
    context: int
    """Tokens that fit prompt and answer."""
    task: str
    """What the model is served for, as the list of models says it."""

    @property
    def generates(self) -> bool:
        """Whether the model answers in words."""
        return self.task == "generate"

    @property
    def plain(self) -> Sent:
        """Return a request without a canary that the model answers."""
        kinds = {"embed": self.vectors, "rerank": self.ranking}
        return kinds.get(self.task, self.chat)("")

    def vectors(self, position: str, statuses: range = SERVED, **fields: Any) -> Sent:
        """Return a request for vectors with `fields` in it."""
        body = json.dumps({"model": self.model, "input": "Tacit", **fields}).encode()
        return Sent(position, body, path=EMBEDDINGS, statuses=statuses)

    def ranking(self, position: str, statuses: range = SERVED, **fields: Any) -> Sent:
        """Return a request to order documents with `fields` in it."""
        short = {"model": self.model, "query": "What is Tacit?", "documents": ["Tacit", "x"]}
        return Sent(position, json.dumps({**short, **fields}).encode(), RERANK, statuses=statuses)

    def chat(self, position: str, statuses: range = SERVED, **fields: Any) -> Sent:
        """Return a chat with `fields` in it."""
        messages = [user("What is Tacit?")]
        short = {"model": self.model, "messages": messages, "max_tokens": 4, "temperature": 0}
        return Sent(position, json.dumps({**short, **fields}).encode(), statuses=statuses)

    def completion(self, position: str, statuses: range = SERVED, **fields: Any) -> Sent:
        """Return a completion with `fields` in it."""
        short = {"model": self.model, "prompt": "Tacit", "max_tokens": 4, "temperature": 0}
        body = json.dumps({**short, **fields}).encode()
        return Sent(position, body, path=COMPLETIONS, statuses=statuses)

    def response(self, position: str, statuses: range = SERVED, **fields: Any) -> Sent:
        """Return a request to the Responses API with `fields` in it."""
        short = {"model": self.model, "input": "Tacit", "max_output_tokens": 4, "temperature": 0}
        body = json.dumps({**short, **fields}).encode()
        return Sent(position, body, path=RESPONSES, statuses=statuses)

    def schemas(self, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """JSON Schemas that engines support, with a canary in each kind of place."""
        name, words, values, constant = (
            self.canaries.at(f"{where} {kind}")
            for kind in ("property", "words", "values", "constant")
        )
        yield f"{where} property", _object({name: {"type": "string"}})
        yield f"{where} words", _object({"x": {"type": "string", "description": words}})
        yield f"{where} values", _object({"x": {"enum": [values, "y"]}})
        yield f"{where} constant", _object({"x": {"const": constant}})

    def bad_schemas(self, how: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """JSON Schemas at which grammar compilers fail, each in their own way."""
        names = ("pattern", "type", "reference", "format", "bounds")
        at = {name: self.canaries.at(f"bad {name}, {how}") for name in names}
        bad: dict[str, dict[str, Any]] = {
            "pattern": {"type": "string", "pattern": f"(?<={at['pattern']})["},
            "type": {"type": at["type"]},
            "reference": {"$ref": f"#/$defs/{at['reference']}"},
            "format": {"type": "string", "format": at["format"], "not": {"const": at["format"]}},
            "bounds": {"type": "string", "minLength": 9, "maxLength": 1, "title": at["bounds"]},
        }
        for name, schema in bad.items():
            yield f"bad {name}, {how}", _object({"x": schema})
