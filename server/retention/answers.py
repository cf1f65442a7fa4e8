"""Answers in; what they repeat of what was sent, where only a model's own words may, out."""

from __future__ import annotations

import json
from collections.abc import Iterator

from server.retention.asking import Asked
from server.retention.canary import Canaries
from server.retention.search import Search, Searched, joined
from server.retention.senders import Answered

_EVENT_WORDS = frozenset({"arguments", "delta", "item", "logprobs", "name", "part", "text"})
"""Members of an event of the Responses API that hold what the model said."""


def search_answers(search: Search, asked: Asked, canaries: Canaries) -> Searched:
    """Search headers, errors, what is not the model's words, and words of somebody else."""
    parts = [search.text("answers to what is no HTTP", asked.babble)]
    for answer in asked.everything:
        where = _where(answer)
        parts.append(search.text(f"headers of the {where}", answer.headers.encode()))
        if answer.status >= 400:
            parts.append(search.text(where, answer.body))
    for answer in asked.answers:  # what an engine says, the gateway builds anew
        if answer.status < 400:
            parts += _whole(search, answer, canaries, where=_where(answer))
    return joined(parts)


def _where(answer: Answered) -> str:
    return f"answer to {answer.sent.position or answer.sent.path}"


def _whole(
    search: Search, answer: Answered, canaries: Canaries, *, where: str
) -> Iterator[Searched]:
    own = canaries.at(answer.sent.position).encode()
    yield search.text(f"another's words in the {where}", answer.body.replace(own, b""))
    for document in _documents(answer.body):
        rest = json.dumps(_without_words(document)).encode()
        yield search.text(f"beside the words of the {where}", rest)


def _documents(body: bytes) -> Iterator[object]:
    """Yield the JSON of an answer or of the events of a stream, which may have been cut."""
    streamed = body.startswith((b"data:", b"event:"))
    lines = body.splitlines() if streamed else [b"data: " + body]
    for line in lines:
        text = line.removeprefix(b"data: ")
        if text.startswith((b"{", b"[{")):
            try:
                yield json.loads(text)
            except ValueError:  # broken off here; as another's words it is searched in full
                continue


def _without_words(document: object) -> object:
    """Return a document without the members that hold what the model said."""
    if not isinstance(document, dict):
        return document
    words: frozenset[str] = frozenset({"choices"})
    if document.get("object") == "response":
        words = frozenset({"output"})
    elif str(document.get("type")).startswith("response."):
        words = _EVENT_WORDS
    rest = {name: value for name, value in document.items() if name not in words}
    if "response" in rest:
        rest["response"] = _without_words(rest["response"])
    return rest
