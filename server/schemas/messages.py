"""The conversation of a chat request: roles, text parts, tool calls."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from server.schemas.fields import (
    MAX_PARTS,
    CallId,
    Content,
    Dropped,
    FunctionName,
    Label,
    RefusedDeprecated,
    RefusedMedia,
    refuse,
)


class TextPart(Content):
    """One text of a message given in parts."""

    type: Literal["text"]
    text: str


class RefusalPart(Content):
    """What an assistant declined to do, sent back as history."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(Content):
    """An image, sound, video or file; refused with its own code instead of as a wrong type."""

    model_config = ConfigDict(extra="ignore")

    type: Literal[
        "image_url",
        "input_image",
        "image",
        "image_embeds",
        "input_audio",
        "audio",
        "audio_url",
        "video",
        "video_url",
        "file",
        "input_file",
    ]

    @model_validator(mode="after")
    def _refused(self) -> MediaPart:
        raise refuse("media-refused")


Parts = Annotated[
    tuple[Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")], ...],
    Field(min_length=1, max_length=MAX_PARTS),
]
Text = str | Parts


class FunctionCall(Content):
    """A function the model called; `arguments` is the JSON text it wrote."""

    name: FunctionName
    arguments: Annotated[str, StringConstraints(max_length=1_048_576)]


class ToolCall(Content):
    """One call in an assistant message; `index` is left over when a client joins a stream."""

    id: CallId
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Dropped = None


class SystemMessage(Content):
    """Instructions; OpenAI calls them `developer` for newer models, Qwen3 knows `system`."""

    role: Literal["system", "developer"]
    content: Text
    name: Label | None = None

    def to_engine(self) -> dict[str, Any]:
        """Return the message in the engine's words."""
        return {"role": "system", "content": text(self.content)}


class UserMessage(Content):
    """What the user says."""

    role: Literal["user"]
    content: Text
    name: Label | None = None

    def to_engine(self) -> dict[str, Any]:
        """Return the message in the engine's words."""
        return {"role": "user", "content": text(self.content)}


class AssistantMessage(Content):
    """What the model said before, as SDKs send it back, `model_dump()` leftovers included."""

    role: Literal["assistant"]
    content: Text | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(max_length=MAX_PARTS)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    name: Label | None = None
    annotations: Dropped = None
    audio: RefusedMedia = None
    function_call: RefusedDeprecated = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise refuse("field-missing", param="content")
        return self

    def to_engine(self) -> dict[str, Any]:
        """Return the message in the engine's words."""
        said = self.refusal if self.content is None else text(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": said}
        reasoning = self.reasoning if self.reasoning is not None else self.reasoning_content
        if reasoning is not None:
            message["reasoning"] = reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": arguments(call.function.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        return message


class ToolMessage(Content):
    """What a tool answered to one call."""

    role: Literal["tool"]
    content: Text
    tool_call_id: CallId
    name: Label | None = None

    def to_engine(self) -> dict[str, Any]:
        """Return the message in the engine's words."""
        return {
            "role": "tool",
            "content": text(self.content),
            "tool_call_id": self.tool_call_id,
        }


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


def text(content: Text) -> str:
    """Join the parts of a message with newlines, as the engine does for Qwen3's template."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
    return "\n".join(texts)


def arguments(written: str) -> str:
    """Return the arguments of a call as the JSON object that the template needs."""
    # The template needs an object. A model's malformed call stays in the history for ever, so it
    # becomes {} as in the engine, which would otherwise log the name of the function.
    try:
        value = json.loads(written)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    except (ValueError, RecursionError):
        return "{}"
    return written if isinstance(value, dict) else "{}"
