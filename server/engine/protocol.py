"""What the gateway asks of an engine: one answer, or a stream of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from attestation.confidential import Confidential

REASONS = frozenset({"context_length_exceeded", "max_tokens_exceeded"})
"""Codes by which the guard inside the engine says why a request was refused."""


class EngineStatus(Exception):
    """The engine answered a stream request with an HTTP status other than 200."""

    def __init__(self, status: int, body: Confidential[bytes]) -> None:
        super().__init__(f"engine answered {status}")
        self.status = status
        self.body = body


class EngineBroken(Exception):
    """The engine could not be reached, broke off, or sent what is not HTTP or an event stream."""


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """A complete answer of the engine, whatever its status."""

    status: int
    body: Confidential[bytes]


class Engine(Protocol):
    """One engine behind its socket; the body is JSON that the gateway built."""

    async def call(self, path: str, body: Confidential[bytes]) -> EngineAnswer:
        """POST `body` to `path`; raise `EngineBroken`. Cancelling it aborts the generation."""
        ...

    def stream(
        self, path: str, body: Confidential[bytes]
    ) -> AsyncGenerator[Confidential[bytes], None]:
        """POST `body` to `path` and yield the payload of each `data:` event, without `[DONE]`.

        Raises `EngineStatus` before the first payload when the status is not 200, and
        `EngineBroken` when the events end without `[DONE]`. Closing the generator aborts the
        generation.
        """
        ...

    async def metrics(self) -> bytes:
        """Return the engine's metrics as Prometheus' text; raise `EngineBroken`."""
        ...


def reason(body: Confidential[bytes]) -> str | None:
    """Return why the engine refused, if its error body names one of `REASONS`."""
    try:
        code = json.loads(body.reveal())["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) and code in REASONS else None


def said_status(event: Confidential[bytes]) -> int | None:
    """Return the HTTP status in an event that says `error`, if it is one.

    vLLM compiles a JSON schema after it has answered 200 to a stream, so a refusal comes inside.
    """
    try:
        status = json.loads(event.reveal())["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return status if type(status) is int else None
