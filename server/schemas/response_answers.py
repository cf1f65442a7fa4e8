"""Answers of `/v1/responses` rebuilt from allow-listed fields: engine JSON in, OpenAI JSON out.

What the engine repeats of the request (instructions, tools, formats) does not leave, and ids of
its requests do not either. Types of items and events that no function-calling text model has are
not answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attestation.confidential import Confidential
from server.schemas.answers import (
    BadAnswer,
    Rebuild,
    Rebuilt,
    Stamp,
    Usage,
    count,
    each,
    number,
    one_line,
    parsed,
    pick,
    same,
)

_STATUS = ("completed", "incomplete", "in_progress", "failed")
_INCOMPLETE = ("max_output_tokens", "content_filter")
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


def _status(value: Any) -> Any:
    if value in _STATUS:
        return value
    raise BadAnswer


def _nothing(value: Any) -> Any:
    del value
    return []


def _by_type(rows: dict[str, Rebuild]) -> Rebuild:
    def rebuild(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in rows:
            raise BadAnswer
        return rows[kind](value)

    return rebuild


_TOKEN = {"token": same, "logprob": number, "bytes": same}
_logprobs = each(pick({**_TOKEN, "top_logprobs": each(pick(_TOKEN))}))
_text = pick({"type": same, "text": same})
_part = _by_type(
    {
        "output_text": pick(
            {"type": same, "text": same, "annotations": _nothing, "logprobs": _logprobs}
        ),
        "refusal": pick({"type": same, "refusal": same}),
        "reasoning_text": _text,
        "summary_text": _text,
    }
)
_ITEM = {"id": same, "type": same, "status": _status}
_item = _by_type(
    {
        "message": pick({**_ITEM, "role": same, "content": each(_part)}),
        "reasoning": pick({**_ITEM, "summary": each(_part), "content": each(_part)}),
        "function_call": pick({**_ITEM, "call_id": same, "name": same, "arguments": same}),
    }
)
_usage = pick(
    {
        "input_tokens": count,
        "output_tokens": count,
        "total_tokens": count,
        "output_tokens_details": pick({"reasoning_tokens": count}),
    }
)
_numbers = pick(
    {
        "temperature": number,
        "top_p": number,
        "max_output_tokens": count,
        "parallel_tool_calls": same,
    }
)

_PLACE: dict[str, Rebuild] = {
    "type": same,
    "sequence_number": count,
    "output_index": count,
    "item_id": same,
    "content_index": count,
}
_EVENTS: Mapping[str, dict[str, Rebuild]] = MappingProxyType(
    {
        "response.output_item.added": {"item": _item},
        "response.output_item.done": {"item": _item},
        "response.content_part.added": {"part": _part},
        "response.content_part.done": {"part": _part},
        "response.output_text.delta": {"delta": same, "logprobs": _logprobs},
        "response.output_text.done": {"text": same, "logprobs": _logprobs},
        "response.reasoning_part.added": {"part": _part},
        "response.reasoning_part.done": {"part": _part},
        "response.reasoning_text.delta": {"delta": same},
        "response.reasoning_text.done": {"text": same},
        "response.function_call_arguments.delta": {"delta": same},
        "response.function_call_arguments.done": {"arguments": same, "name": same},
    }
)
_rows = {kind: pick({**_PLACE, **rows}) for kind, rows in _EVENTS.items()}
_WHOLE = frozenset({"response.created", "response.in_progress"}) | _LAST
"""Events that carry the response as it is so far."""


def rebuild(data: Confidential[bytes], stamp: Stamp, *, with_usage: bool) -> Rebuilt:
    """Rebuild one response, or one event of a streamed one, or raise `BadAnswer`."""
    del with_usage  # the counts are part of every response
    value = parsed(data)
    if value.get("object") == "response":
        response, usage = _response(value, stamp)
        return Rebuilt(Confidential(one_line(response)), usage)
    kind = value.get("type")
    if not isinstance(kind, str):
        raise BadAnswer
    usage = None
    if kind in _WHOLE:
        response, usage = _response(value.get("response"), stamp)
        event = {
            "type": kind,
            "sequence_number": count(value.get("sequence_number")),
            "response": response,
        }
    elif kind in _rows:
        event = _rows[kind](value)
    else:
        raise BadAnswer
    json = Confidential(one_line(event))
    return Rebuilt(json, usage, event=kind.encode(), last=kind in _LAST)


def _response(value: Any, stamp: Stamp) -> tuple[dict[str, Any], Usage | None]:
    if not isinstance(value, dict):
        raise BadAnswer
    details = value.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    counts = value.get("usage")
    response: dict[str, Any] = {
        "id": stamp.id,
        "object": "response",
        "created_at": stamp.created,
        "model": stamp.model,
        "status": _status(value.get("status")),
        "output": each(_item)(value.get("output")),
        "incomplete_details": {"reason": reason} if reason in _INCOMPLETE else None,
        "usage": None if counts is None else _usage(counts),
        **_numbers(value),
        # what a stateless service always says, and what it does not repeat
        "background": False,
        "error": None,
        "instructions": None,
        "metadata": {},
        "previous_response_id": None,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    }
    if counts is None:
        return response, None
    used = response["usage"]
    return response, Usage(used.get("input_tokens") or 0, used.get("output_tokens") or 0)
