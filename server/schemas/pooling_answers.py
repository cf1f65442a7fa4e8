"""Answers in numbers: the engine's JSON in, OpenAI's embeddings or Jina's ranking out.

As everywhere, what has no line here never leaves: neither the engine's ids nor its labels.
"""

from __future__ import annotations

import base64
import math
import sys
from array import array
from typing import Any

from pydantic_core import to_json

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

_vectors = each(pick({"embedding": lambda value: value}))
_scores = each(pick({"probs": each(number)}))


def rebuild(
    data: Confidential[bytes], stamp: Stamp, *, request: EmbeddingsRequest | RerankRequest
) -> Rebuilt:
    """Rebuild the engine's answer to `request`, or raise `BadAnswer`."""
    value = parsed(data)
    tokens = _tokens(value)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    if isinstance(request, EmbeddingsRequest):
        rest = one_line({"object": "list", "model": stamp.model, "usage": usage})
        answer = b'{"data":[%s],%s' % (b",".join(_embeddings(value, request)), rest[1:])
    else:
        results = _ranking(value, request)[: request.top_n]
        answer = one_line(
            {"id": stamp.id, "model": stamp.model, "results": results} | {"usage": usage}
        )
    return Rebuilt(Confidential(answer), Usage(tokens, 0))


def _embeddings(value: dict[str, Any], request: EmbeddingsRequest) -> list[bytes]:
    """Return each vector's object as JSON; as numbers of Python all of them would be too large."""
    texts = [item.get("embedding") for item in _vectors(value.get("data"))]
    if len(texts) != request.prompts:
        raise BadAnswer
    found = []
    expected = request.dimensions
    for index, text in enumerate(texts):
        vector = _vector(text)
        expected = expected or len(vector)
        if len(vector) != expected:
            raise BadAnswer
        said = to_json(text if request.encoding_format == "base64" else vector.tolist())
        found.append(b'{"object":"embedding","index":%d,"embedding":%s}' % (index, said))
    return found


def _vector(text: object) -> array[float]:
    """Return the numbers of a vector; one that is not finite is no answer."""
    if not isinstance(text, str):
        raise BadAnswer
    vector = array("f")
    try:
        vector.frombytes(base64.b64decode(text, validate=True))
    except ValueError:  # of base64, or of a length that is no number of floats
        raise BadAnswer from None
    if sys.byteorder == "big":
        vector.byteswap()
    if not vector or not math.isfinite(sum(vector)):
        raise BadAnswer
    return vector


def _ranking(value: dict[str, Any], request: RerankRequest) -> list[dict[str, Any]]:
    scores = [item.get("probs") for item in _scores(value.get("data"))]
    if len(scores) != request.prompts:
        raise BadAnswer
    results = []
    for index, probs in enumerate(scores):
        if probs is None or len(probs) != 1 or not 0 <= probs[0] <= 1:
            raise BadAnswer
        results.append({"index": index, "relevance_score": probs[0]})
    return sorted(results, key=lambda result: -result["relevance_score"])  # stable


def _tokens(value: dict[str, Any]) -> int:
    usage = value.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or tokens < 0:
        raise BadAnswer
    return tokens
