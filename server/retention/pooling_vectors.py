"""A writer of requests in, out: what models of vectors and rankings are sent, a canary in each.

Vectors are content: who has one can guess at its text. Only their texts can be searched for, and
the texts are what this writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.retention.vectors import EITHER, FEWEST_TOKENS, REFUSED, Sent, Writer
from server.schemas.pooling import EmbeddingsRequest, RerankRequest


def served(writer: Writer) -> Iterator[Sent]:
    """What the model answers."""
    at = writer.canaries.at
    if writer.task == "embed":
        yield writer.vectors("input", input=at("input"))
        yield writer.vectors("inputs", input=[at("inputs"), f"and {at('inputs')}"])
        yield writer.vectors("floats", input=at("floats"), encoding_format="float")
        yield writer.vectors("input user", user=at("input user"))
        return
    yield writer.ranking("query", query=at("query"))
    yield writer.ranking("documents", documents=[at("documents"), {"text": at("documents")}])
    yield writer.ranking("instruction", instruction=at("instruction"))
    yield writer.ranking("ranking user", user=at("ranking user"))


def refused(writer: Writer) -> Iterator[Sent]:
    """What the gateway refuses before the engine sees it, or the engine after."""
    at = writer.canaries.at
    make = writer.vectors if writer.task == "embed" else writer.ranking
    where = writer.task
    yield make(f"{where} model", REFUSED, model=at(f"{where} model"))
    yield make(f"{where} field", REFUSED, **{at(f"{where} field"): at(f"{where} field")})
    for name in ("cache_salt", "request_id", "truncate_prompt_tokens", "chat_template"):
        position = f"{where} {name}"
        yield make(position, REFUSED, **{name: at(position)})
    words = f"{at(f'{where} long')} " * (writer.context // FEWEST_TOKENS)
    long = {"input": words} if writer.task == "embed" else {"documents": [words]}
    yield make(f"{where} long", REFUSED, **long)
    yield writer.chat(f"{where} chat", REFUSED, user=at(f"{where} chat"))
    yield writer.completion(f"{where} completion", REFUSED, prompt=at(f"{where} completion"))
    if writer.task == "embed":
        yield make("token ids", REFUSED, input=[2**23], user=at("token ids"))
        yield make("dimensions", REFUSED, input=at("dimensions"), dimensions=65_536)


def wrong(writer: Writer) -> Iterator[Sent]:
    """Every field of the schema with values of the wrong type."""
    embeds = writer.task == "embed"
    make = writer.vectors if embeds else writer.ranking
    kind = EmbeddingsRequest if embeds else RerankRequest
    for name in kind.model_fields:
        position = f"{kind.__name__} {name}"
        canary = writer.canaries.at(position)
        for value in ({canary: [canary]}, [{canary: canary}], canary):
            yield make(position, EITHER, **{name: value})


def behind_the_gateway(writer: Writer) -> Iterator[Sent]:
    """What only the engine's socket accepts.

    No id of the request's own is among it: the gateway refuses one, and vLLM's processes pass it on
    in their private memory, which a pooling engine overwrites some requests later.
    """
    at = writer.canaries.at
    own = "/v1/embeddings" if writer.task == "embed" else "/classify"
    bodies: dict[str, dict[str, Any]] = {
        "engine input": {"input": at("engine input")},
        "engine model": {"input": "x", "model": at("engine model")},
        "engine conversation": {
            "messages": [{"role": "user", "content": at("engine conversation")}]
        },
        "engine template": {"input": "x", "chat_template": at("engine template")},
        "engine role": {"messages": [{"role": at("engine role"), "content": "x"}]},
        "engine type": {"input": {at("engine type"): 1}},
    }
    for position, body in bodies.items():
        for path in (own, "/v1/rerank", "/pooling", "/v1/chat/completions"):
            data = json.dumps({"model": writer.model, **body}).encode()
            statuses = range(200, 600) if path == own else REFUSED
            yield Sent(f"{position}, {path}", data, path, statuses=statuses)
