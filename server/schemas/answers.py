"""Answers rebuilt from allow-listed fields: engine JSON in, OpenAI JSON under our own id out.

What the engine adds for its own ends (its request id, fingerprints, token ids, timings, cache
hits, echoed prompts) has no row here and so never leaves. Qwen3's thinking is called `reasoning`
by the engine and `reasoning_content` by many clients; answers carry it under both names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jiter
from pydantic_core import PydanticSerializationError, to_json

from attestation.confidential import Confidential

Rebuild = Callable[[Any], Any]


class BadAnswer(Exception):
    """The engine sent something that is not an answer; its text is not kept."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every answer and every chunk of a stream says about itself."""

    id: str
    model: str
    created: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """One answer or chunk to send on; `json` is empty for a chunk that only carried `usage`."""

    json: Confidential[bytes]
    usage: Usage | None
    event: bytes = b""
    """The name of the event, where the route's events have names."""
    last: bool = False
    """Whether nothing follows; streams that end with `[DONE]` do not say it here."""


def same(value: Any) -> Any:
    """Pass a value on."""
    return value


def number(value: Any) -> Any:
    """Pass a number on, or raise `BadAnswer`."""
    if isinstance(value, int | float):
        return value
    raise BadAnswer


def count(value: Any) -> Any:
    """Pass a whole number on, or raise `BadAnswer`."""
    if isinstance(value, int):
        return value
    raise BadAnswer


def pick(rows: Mapping[str, Rebuild]) -> Rebuild:
    """Return what rebuilds an object from the members that have a row; null stays null."""

    def rebuild(value: Any) -> Any:
        if not isinstance(value, dict):
            raise BadAnswer
        return {
            name: None if item is None else rows[name](item)
            for name, item in value.items()
            if name in rows
        }

    return rebuild


def each(row: Rebuild) -> Rebuild:
    """Return what rebuilds every item of a list."""

    def rebuild(value: Any) -> Any:
        if not isinstance(value, list):
            raise BadAnswer
        return [row(item) for item in value]

    return rebuild


_TOKEN = {"token": same, "logprob": number, "bytes": same}
_LOGPROBS = {
    # chat
    "content": each(pick({**_TOKEN, "top_logprobs": each(pick(_TOKEN))})),
    # completions
    "tokens": same,
    "token_logprobs": same,
    "top_logprobs": same,
    "text_offset": same,
}
_CALL = {
    "index": number,
    "id": same,
    "type": same,
    "function": pick({"name": same, "arguments": same}),
}
_MESSAGE = {
    "role": same,
    "content": same,
    "refusal": same,
    "reasoning": same,
    "tool_calls": each(pick(_CALL)),
}
_CHOICE = {
    "index": number,
    "text": same,
    "message": pick(_MESSAGE),
    "delta": pick(_MESSAGE),
    "logprobs": pick(_LOGPROBS),
    "finish_reason": same,
}
_choices = each(pick(_CHOICE))
_usage = pick(
    {
        "prompt_tokens": count,
        "completion_tokens": count,
        "total_tokens": count,
        "completion_tokens_details": pick({"reasoning_tokens": count}),
    }
)
# a tuple: what the engine sent need not be hashable
_OBJECTS = ("chat.completion", "chat.completion.chunk", "text_completion")

_LINE_ENDS = tuple((mark.encode(), b"\\u%04x" % ord(mark)) for mark in "\x85\u2028\u2029")
"""Line ends to Unicode, though not to JSON or SSE: some clients would split an event there."""


def rebuild(data: Confidential[bytes], stamp: Stamp, *, with_usage: bool) -> Rebuilt:
    """Rebuild one answer or stream chunk of either route, or raise `BadAnswer`.

    `with_usage` says whether the client gets the token counts; the caller always does.
    """
    value = _parsed(data)
    answer: dict[str, Any] = {
        "id": stamp.id,
        "object": value["object"],
        "created": stamp.created,
        "model": stamp.model,
        "choices": _choices(value.get("choices")),
    }
    for choice in answer["choices"]:
        for said in ("message", "delta"):
            if choice.get(said) and choice[said].get("reasoning") is not None:
                choice[said]["reasoning_content"] = choice[said]["reasoning"]
    counts = value.get("usage")
    usage = None
    if counts is not None:
        counts = _usage(counts)
        usage = Usage(counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0)
        if with_usage:
            answer["usage"] = counts
        elif not answer["choices"]:
            return Rebuilt(Confidential(b""), usage)
    return Rebuilt(Confidential(one_line(answer)), usage)


def _parsed(data: Confidential[bytes]) -> dict[str, Any]:
    value = parsed(data)
    if value.get("object") not in _OBJECTS:
        raise BadAnswer
    return value


def parsed(data: Confidential[bytes]) -> dict[str, Any]:
    """Return the JSON object that `data` is, or raise `BadAnswer`."""
    try:
        try:
            value = jiter.from_json(data.reveal())
        except ValueError:  # half of a surrogate pair, which only the standard library reads
            value = json.loads(data.reveal())
    except (ValueError, RecursionError):
        raise BadAnswer from None
    if not isinstance(value, dict):
        raise BadAnswer
    return value


def one_line(answer: dict[str, Any]) -> bytes:
    """Return `answer` as JSON without any line end that a client could split it at."""
    try:
        text = to_json(answer)
    except PydanticSerializationError:  # half of a surrogate pair at the edge of a chunk
        return json.dumps(answer).encode()
    if not text.isascii():
        for mark, escaped in _LINE_ENDS:
            text = text.replace(mark, escaped)
    return text
