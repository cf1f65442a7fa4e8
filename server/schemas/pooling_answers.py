"""Answers in numbers: the engine's JSON in, OpenAI's embeddings or Jina's ranking out.

As everywhere, what has no line here never leaves: neither the engine's ids nor its labels.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Any

from attestation.confidential import Confidential
from server.schemas.answers import (
    BadAnswer,
    Rebuilt,
    Stamp,
    Usage,
    each,
    number,
    one_line,
    parsed,
    pick,
)
from server.schemas.pooling import EmbeddingsRequest, RerankRequest

_FLOAT = 4
_vectors = each(pick({"embedding": lambda value: value}))
_scores = each(pick({"probs": each(number)}))


def rebuild(
    data: Confidential[bytes], stamp: Stamp, *, request: EmbeddingsRequest | RerankRequest
) -> Rebuilt:
    """Rebuild the engine's answer to `request`, or raise `BadAnswer`."""
    value = parsed(data)
    tokens = _tokens(value)
    if isinstance(request, EmbeddingsRequest):
        answer = _embeddings(value, stamp, request)
    else:
        answer = _ranking(value, stamp, request)
    answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Rebuilt(Confidential(one_line(answer)), Usage(tokens, 0))


def _embeddings(value: dict[str, Any], stamp: Stamp, request: EmbeddingsRequest) -> dict[str, Any]:
    found = [item.get("embedding") for item in _vectors(value.get("data"))]
    floats = [_floats(text) for text in found]
    lengths = {len(vector) for vector in floats}
    if len(found) != request.prompts or len(lengths) != 1:
        raise BadAnswer
    if request.dimensions is not None and lengths != {request.dimensions}:
        raise BadAnswer
    said = found if request.encoding_format == "base64" else floats
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(said)
    ]
    return {"object": "list", "data": data, "model": stamp.model}


def _floats(text: object) -> tuple[float, ...]:
    """Return the numbers of a vector; one that is not finite is no answer."""
    if not isinstance(text, str):
        raise BadAnswer
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswer from None
    if not data or len(data) % _FLOAT:
        raise BadAnswer
    vector = struct.unpack(f"<{len(data) // _FLOAT}f", data)
    if not math.isfinite(sum(vector)):
        raise BadAnswer
    return vector


def _ranking(value: dict[str, Any], stamp: Stamp, request: RerankRequest) -> dict[str, Any]:
    scores = [item.get("probs") for item in _scores(value.get("data"))]
    if len(scores) != request.prompts:
        raise BadAnswer
    results = []
    for index, probs in enumerate(scores):
        if probs is None or len(probs) != 1 or not 0 <= probs[0] <= 1:
            raise BadAnswer
        results.append({"index": index, "relevance_score": probs[0]})
    results.sort(key=lambda result: -result["relevance_score"])  # equal ones stay in order
    return {"id": stamp.id, "model": stamp.model, "results": results[: request.top_n]}


def _tokens(value: dict[str, Any]) -> int:
    usage = value.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise BadAnswer
    return tokens
