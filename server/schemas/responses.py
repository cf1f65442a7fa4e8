"""Requests to `/v1/responses`: bytes in, engine JSON out; what would be stored is refused.

The conversation comes whole with every request, as items; the output items of an answer can be
sent back as they came.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from attestation.confidential import Confidential
from server import sampling
from server.errors import BadRequest
from server.schemas.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    CallId,
    Content,
    Count,
    Dropped,
    FunctionName,
    JsonSchema,
    MinP,
    ModelName,
    Penalty,
    RefusedControl,
    RefusedEcho,
    RefusedEgress,
    RefusedStore,
    RefusedTemplate,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    refuse,
)
from server.schemas.messages import MediaPart, arguments
from server.schemas.target import Target, encode

_FORWARDED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_output_tokens",
    "parallel_tool_calls",
)


class InputText(Content):
    """A text of an input item; output parts come back with what answers say beside the text."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str
    annotations: Dropped = None
    logprobs: Dropped = None


class RefusalText(Content):
    """What an assistant declined to do, sent back as history."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """The words, as any other part has them."""
        return self.refusal


Parts = Annotated[
    tuple[Annotated[InputText | RefusalText | MediaPart, Field(discriminator="type")], ...],
    Field(max_length=MAX_PARTS),
]
Text = str | Parts


class _Item(Content):
    id: Dropped = None
    status: Dropped = None
    phase: Dropped = None


class MessageItem(_Item):
    """Something said by one of the roles."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text

    def to_engine(self) -> dict[str, Any]:
        """Return the item in the engine's words."""
        role = "system" if self.role == "developer" else self.role
        return {"type": "message", "role": role, "content": _text(self.content)}


class CallItem(_Item):
    """A function the model called."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Annotated[str, StringConstraints(max_length=1_048_576)]
    namespace: RefusedEgress = None
    caller: Dropped = None
    async_: Dropped = None
    """Also under the name that `model_dump()` of the SDK gives it."""
    async_in_json: Dropped = Field(default=None, alias="async")

    def to_engine(self) -> dict[str, Any]:
        """Return the item in the engine's words."""
        words = arguments(self.arguments)
        return {
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": words,
        }


class OutputItem(_Item):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text

    def to_engine(self) -> dict[str, Any]:
        """Return the item in the engine's words."""
        output = _text(self.output)
        return {"type": "function_call_output", "call_id": self.call_id, "output": output}


class ReasoningItem(_Item):
    """What the model thought, sent back as it came."""

    type: Literal["reasoning"]
    summary: Parts = ()
    content: Parts | None = None
    encrypted_content: RefusedStore = None

    def to_engine(self) -> dict[str, Any]:
        """Return the item in the engine's words."""
        text = _text(self.content or self.summary)
        content = [{"type": "reasoning_text", "text": text}]
        return {"type": "reasoning", "id": "rs_0", "summary": [], "content": content}


class ReferenceItem(Content):
    """An item that was stored; nothing is."""

    type: Literal["item_reference"]
    id: Dropped = None

    @model_validator(mode="after")
    def _refused(self) -> ReferenceItem:
        raise refuse("store-refused")

    def to_engine(self) -> dict[str, Any]:
        """Return nothing: there is no such item."""
        return {}


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(_kind),
]
TAGS = frozenset(
    {"message", "function_call", "function_call_output", "reasoning", "item_reference"}
) | {"input_text", "output_text", "summary_text", "reasoning_text"}
"""What pydantic puts after an index: values of the client's, not fields."""


def _only_functions(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") != "function":
        raise refuse("egress-refused")
    return tool


class FunctionTool(Content):
    """A function; every other tool of this API would be run by the service."""

    type: Literal["function"]
    name: FunctionName
    description: Annotated[str, StringConstraints(max_length=65_536)] | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class NamedFunctionTool(Content):
    """A `tool_choice` of exactly one function."""

    type: Literal["function"]
    name: FunctionName


class TextFormat(Content):
    """Free text, any JSON object, or JSON of one schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: FunctionName | None = None
    description: str | None = None
    schema_: JsonSchema | None = Field(alias="schema", default=None)
    strict: bool | None = None

    @model_validator(mode="after")
    def _schema_where_named(self) -> TextFormat:
        wanted = self.type == "json_schema"
        if (self.schema_ is not None) != wanted or (self.name is not None) != wanted:
            raise refuse("fields-conflict", param="schema")
        return self

    def to_engine(self) -> dict[str, Any]:
        """Return the format in the engine's words; the grammar is enforced whatever was asked."""
        if self.schema_ is None:
            return {"type": self.type}
        return {"type": self.type, "name": self.name, "schema": self.schema_, "strict": True}


class TextOptions(Content):
    """The form of the answer's text."""

    format: TextFormat | None = None


class Reasoning(Content):
    """Whether the model thinks; its thoughts come whole, so a summary adds nothing."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Dropped = None
    generate_summary: Dropped = None


class ResponsesRequest(Content):
    """A response as OpenAI defines it, without anything that outlives the answer."""

    model: ModelName
    input: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[tuple[Item, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    )
    instructions: str | None = None
    stream: bool | None = None
    stream_options: Dropped = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    tools: (
        Annotated[
            tuple[Annotated[FunctionTool, BeforeValidator(_only_functions)], ...],
            Field(max_length=MAX_TOOLS),
        ]
        | None
    ) = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunctionTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: (
        tuple[Literal["message.output_text.logprobs", "reasoning.encrypted_content"], ...] | None
    ) = None
    """Thoughts leave in plain words inside the attested channel, whoever asks for them sealed."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None

    # accepted and dropped: they name people or wish for what one replica cannot give
    user: Dropped = None
    metadata: Dropped = None
    safety_identifier: Dropped = None
    prompt_cache_key: Dropped = None
    prompt_cache_retention: Dropped = None
    service_tier: Literal["auto", "default"] | None = None

    store: RefusedStore = None
    background: RefusedStore = None
    previous_response_id: RefusedStore = None
    conversation: RefusedStore = None
    context_management: RefusedStore = None
    prompt: RefusedTemplate = None
    chat_template_kwargs: RefusedTemplate = None
    max_tool_calls: RefusedEgress = None
    request_id: RefusedControl = None
    session_id: RefusedControl = None
    cache_salt: RefusedControl = None
    priority: RefusedControl = None
    kv_transfer_params: RefusedControl = None
    ec_transfer_params: RefusedControl = None
    vllm_xargs: RefusedControl = None
    previous_input_messages: RefusedControl = None
    enable_response_messages: RefusedEcho = None

    @model_validator(mode="after")
    def _whole(self) -> ResponsesRequest:
        names = {tool.name for tool in self.tools or ()}
        if len(names) != len(self.tools or ()):
            raise refuse("fields-conflict", param="tools")
        choice = self.tool_choice
        if isinstance(choice, NamedFunctionTool):
            if choice.name not in names:
                raise refuse("tool-unknown", param="tool_choice")
        elif choice == "required" and not names:
            raise refuse("tool-unknown", param="tool_choice")
        if self.top_logprobs and not self._logprobs:
            raise refuse("fields-conflict", param="top_logprobs")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with the token counts: here always."""
        return True

    @property
    def n(self) -> int:
        """How many answers each prompt gets."""
        return 1

    @property
    def prompts(self) -> int:
        """How many prompts this request has."""
        return 1

    @property
    def output_limit(self) -> int | None:
        """Most tokens of one answer; None for whatever the context leaves."""
        return self.max_output_tokens

    @property
    def _logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ())

    def thinking(self, *, reasoning: bool) -> bool:
        """Say whether the answer begins by thinking."""
        effort = self.reasoning.effort if self.reasoning is not None else None
        if effort is None:
            return reasoning
        if effort != "none" and not reasoning:
            raise BadRequest("thinking-unsupported")
        return effort != "none"

    def engine_body(self, target: Target) -> Confidential[bytes]:
        """Build the engine's JSON for this request."""
        thinking = self.thinking(reasoning=target.reasoning)
        body: dict[str, Any] = dict(sampling.defaults(thinking=thinking))
        named = {name: getattr(self, name) for name in _FORWARDED}
        body |= {name: value for name, value in named.items() if value is not None}
        body |= {"model": target.model, "cache_salt": target.cache_salt}
        body |= {"store": False, "background": False, "stream": bool(self.stream)}
        body["input"] = (
            self.input if isinstance(self.input, str) else [item.to_engine() for item in self.input]
        )
        if self.instructions:
            body["instructions"] = self.instructions
        if target.reasoning:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        if self.tools:
            body["tools"] = [tool.model_dump(exclude_none=True) for tool in self.tools]
            choice = self.tool_choice
            body["tool_choice"] = (
                choice.model_dump() if isinstance(choice, NamedFunctionTool) else choice or "auto"
            )
        if self.text is not None and self.text.format is not None:
            body["text"] = {"format": self.text.format.to_engine()}
        if self._logprobs:
            body["include"] = ["message.output_text.logprobs"]
            body["top_logprobs"] = self.top_logprobs or 0
        return encode(body)


def _text(content: Text) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if not isinstance(part, MediaPart))
