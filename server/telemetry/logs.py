"""Our own log records in, log events of the closed vocabulary out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from server.telemetry.otlp import LogEvent
from server.telemetry.vocabulary import EVENTS, LOG_FIELDS, Vocabulary

_OUR_LOGGERS = "tacit"


def log_event(record: logging.LogRecord, vocabulary: Vocabulary) -> LogEvent | None:
    """Return what of `record` is listed; None for an event that is not, or of a library."""
    ours = record.name.startswith(f"{_OUR_LOGGERS}.")
    if not ours or not isinstance(record.msg, str) or record.msg not in EVENTS:
        return None
    values = {
        name: value
        for field, name in LOG_FIELDS.items()
        if (value := record.__dict__.get(field)) is not None
    }
    return LogEvent(
        at=datetime.fromtimestamp(record.created, UTC),
        level=record.levelname,
        event=record.msg,
        attributes=vocabulary.rebuilt(values, values),
    )


class EventQueue(logging.Handler):
    """Hands the listed events of our loggers to `offer`."""

    def __init__(self, offer: Callable[[LogEvent], None], vocabulary: Vocabulary) -> None:
        super().__init__()
        self._offer = offer
        self._vocabulary = vocabulary

    def emit(self, record: logging.LogRecord) -> None:
        """Offer one event; arguments and texts of exceptions are never looked at."""
        event = log_event(record, self._vocabulary)
        if event is not None:
            self._offer(event)

    def __enter__(self) -> Self:
        """Listen to the service's loggers."""
        logging.getLogger(_OUR_LOGGERS).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        logging.getLogger(_OUR_LOGGERS).removeHandler(self)
