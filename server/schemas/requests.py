"""Requests that generate: bytes in, one of the schemas out, each of which builds engine JSON.

The engine never sees the client's bytes: its body is built anew from the fields declared here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from attestation.codec import parse_json
from attestation.confidential import Confidential
from attestation.errors import Malformed
from server import sampling
from server.errors import MESSAGES, BadRequest, TooLarge
from server.schemas.controls import Controls
from server.schemas.fields import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Content,
    Count,
    FunctionName,
    JsonSchema,
    refuse,
)
from server.schemas.messages import Message
from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.responses import TAGS, ResponsesRequest
from server.schemas.target import Target, encode

R = TypeVar("R", bound=Content)


class Function(Content):
    """A function the model may ask the client to run."""

    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=65_536)] | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None

    def to_engine(self) -> dict[str, Any]:
        """Return the function in the engine's words; nulls inside `parameters` stay."""
        named = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }
        return {name: value for name, value in named.items() if value is not None}


class Tool(Content):
    """A tool; functions are the only kind a service without egress can offer."""

    type: Literal["function"]
    function: Function


class NamedFunction(Content):
    """The name in a `tool_choice`."""

    name: FunctionName


class NamedTool(Content):
    """A `tool_choice` of exactly one function."""

    type: Literal["function"]
    function: NamedFunction


class TemplateOptions(Content):
    """The one switch of Qwen3's chat template; nothing else may reach it."""

    enable_thinking: bool | None = None


class ChatRequest(Controls):
    """A chat completion as OpenAI defines it, with Qwen3's thinking switch."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """Qwen3 thinks or does not; `none` switches it off, anything else on."""
    chat_template_kwargs: TemplateOptions | None = None

    @model_validator(mode="after")
    def _whole(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refuse("fields-conflict", param="top_logprobs")
        names = {tool.function.name for tool in self.tools or ()}
        if len(names) != len(self.tools or ()):
            raise refuse("fields-conflict", param="tools")
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.function.name not in names:
                raise refuse("tool-unknown", param="tool_choice")
        elif self.tool_choice == "required" and not names:
            raise refuse("tool-unknown", param="tool_choice")
        return self

    @property
    def prompts(self) -> int:
        """How many prompts this request has."""
        return 1

    @property
    def output_limit(self) -> int | None:
        """Most tokens of one answer; None for whatever the context leaves."""
        return self.max_completion_tokens or self.max_tokens

    def thinking(self, *, reasoning: bool) -> bool:
        """Say whether the answer begins by thinking; the template switch wins over the effort."""
        wish = self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking
        if wish is None and self.reasoning_effort is not None:
            wish = self.reasoning_effort != "none"
        if wish and not reasoning:
            raise BadRequest("thinking-unsupported")
        return reasoning if wish is None else bool(wish)

    def engine_body(self, target: Target) -> Confidential[bytes]:
        """Build the engine's JSON for this request."""
        thinking = self.thinking(reasoning=target.reasoning)
        body = _common(self, target, thinking=thinking)
        body["messages"] = [message.to_engine() for message in self.messages]
        if target.reasoning:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        if self.output_limit is not None:
            body["max_completion_tokens"] = self.output_limit
        if self.tools:
            body["tools"] = [
                {"type": "function", "function": tool.function.to_engine()} for tool in self.tools
            ]
            choice = self.tool_choice
            body["tool_choice"] = (
                choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto"
            )
            if self.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = self.parallel_tool_calls
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        return encode(body)


Prompt = Annotated[str, StringConstraints(min_length=1)]


class CompletionRequest(Controls):
    """A plain completion. Prompts are texts: token ids could name what no text can."""

    prompt: Prompt | Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=16)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> int:
        """How many prompts this request has."""
        return 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def output_limit(self) -> int | None:
        """Most tokens of one answer; None for whatever the context leaves."""
        return self.max_tokens

    def engine_body(self, target: Target) -> Confidential[bytes]:
        """Build the engine's JSON for this request."""
        body = _common(self, target, thinking=False)
        body["prompt"] = self.prompt
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.logprobs is not None:
            body["logprobs"] = self.logprobs
        return encode(body)


def parse(kind: type[R], data: bytes, *, limit: int) -> R:
    """Parse a request body or raise a `Rejected` that holds no byte of it."""
    try:
        value = parse_json(data, limit=limit)  # duplicate names, which pydantic lets pass
    except Malformed as refusal:
        if refusal.code == "too-large":
            raise TooLarge("body-too-large") from None
        raise BadRequest("json-malformed") from None
    if not isinstance(value, dict):
        raise BadRequest("json-malformed")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _rejection(error) from None


def _rejection(error: ValidationError) -> BadRequest:
    found = error.errors(include_url=False, include_input=False)
    # A refusal on purpose says more than a broken rule, and that more than a wrong type: of a
    # union, pydantic reports the members that were not meant as well.
    first = min(found, key=lambda item: _weight(item["type"]))
    place = first["loc"]
    if first["type"] in MESSAGES and "ctx" in first:
        place = (*place, first["ctx"]["param"])
    return BadRequest(_code(first["type"]), param=_param(place))


def _weight(kind: str) -> int:
    if kind in MESSAGES:
        return 0
    return 2 if kind.endswith("_type") else 1


def _code(kind: str) -> str:
    if kind in MESSAGES:
        return kind
    return _RULES.get(kind, "field-invalid")


_RULES = {
    "missing": "field-missing",
    "extra_forbidden": "unknown-field",
    "too_long": "too-many",
    "string_too_long": "too-many",
    "json_invalid": "json-malformed",
}


def _param(place: tuple[int | str, ...]) -> str | None:
    # a place may end in an unknown name or a key of a map, which is the client's text
    path = ""
    for before, part in zip((None, *place), place, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif part in _DECLARED and not (isinstance(before, int) and part in _TAGS):
            path += f".{part}" if path else part
    return path or None


def _common(request: Controls, target: Target, *, thinking: bool) -> dict[str, Any]:
    body: dict[str, Any] = dict(sampling.defaults(thinking=thinking))
    body |= request.engine_controls()
    body |= {"model": target.model, "cache_salt": target.cache_salt}
    if request.seed is not None and target.seeds:
        body["seed"] = request.seed
    if request.stream:
        # the audit record needs the counts even where the client does not
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _declared(kind: Any) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield field.alias or name
            yield from _declared(field.annotation)
    elif get_origin(kind) in {Annotated, Union, tuple} or hasattr(kind, "__args__"):
        for part in get_args(kind):
            yield from _declared(part)


_TAGS = TAGS | {"system", "developer", "user", "assistant", "tool", "text", "refusal"}
"""Roles and part types, which pydantic puts after an index; they are values, not fields."""

_DECLARED = frozenset(
    name
    for kind in (
        ChatRequest,
        CompletionRequest,
        ResponsesRequest,
        EmbeddingsRequest,
        RerankRequest,
    )
    for name in _declared(kind)
)
"""Every field name of the schemas: the only words a `param` may be made of."""
