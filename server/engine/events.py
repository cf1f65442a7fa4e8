"""Server-sent events as vLLM writes them: bytes in, `data:` payloads out (WHATWG HTML 9.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attestation.confidential import Confidential

MAX_EVENT = 4 * 1024 * 1024
"""Largest event, in bytes: one token with 20 log-probabilities has some kilobytes."""


class NotEvents(Exception):
    """The bytes are not an event stream of the kind an engine sends."""


@dataclass(frozen=True, slots=True)
class Done:
    """The engine said `[DONE]`: everything was sent."""


class Events:
    """Cuts a byte stream into events. Comments, which keep connections alive, are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Confidential[bytes] | Done]:
        """Take the next bytes and yield every event that they complete, or raise `NotEvents`."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            line = event if b"\n" not in event else _data_line(event)
            if not line or line.startswith(b":"):
                continue
            if not line.startswith(b"data:"):
                raise NotEvents
            payload = line[5:].strip()
            yield Done() if payload == b"[DONE]" else Confidential(payload)
        if len(self._rest) > MAX_EVENT:
            raise NotEvents


def _data_line(event: bytes) -> bytes:
    """Return the one line of `event` that is data, b"" if it has none; names say it again."""
    skipped = (b":", b"event:")
    lines = [line for line in event.split(b"\n") if line and not line.startswith(skipped)]
    if len(lines) > 1:
        raise NotEvents
    return lines[0] if lines else b""
