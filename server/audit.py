"""What may be written down about a request: ids, sizes, codes and times, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One finished request. There is no free-form field, so content has nowhere to go."""

    time: datetime
    request: str
    """Our own random id, also in the `x-request-id` header."""
    tenant: str | None
    """None when no key was accepted or none is needed."""
    key: str | None
    """The API key that was sent, or that an operator made, rotated or revoked."""
    operator: str | None
    """Who acted on the operator listener, as a certificate or token names them."""
    route: str | None
    """A path of our own route table; None for anything else."""
    model: str | None
    """A served model of the settings; None before one was found."""
    stream: bool
    """Whether a stream of events was asked for."""
    status: int
    """HTTP status; 499 when the client went away first."""
    code: str | None
    """Code of the refusal (`server.errors.MESSAGES`), None for a success."""
    input_tokens: int | None
    output_tokens: int | None
    first_byte_ms: int | None
    duration_ms: int


AUDIT_FIELDS = tuple(field.name for field in fields(AuditEvent))
"""What the attested posture lists under `audit`."""


class AuditSink(Protocol):
    """Where audit events go; a request is not answered completely before its event is recorded."""

    async def record(self, event: AuditEvent) -> None:
        """Write `event` durably or raise, which fails the request it belongs to."""
        ...


@dataclass(frozen=True, slots=True)
class LogAudit:
    """Writes every event as one structured line to the log of the service."""

    log: logging.Logger

    async def record(self, event: AuditEvent) -> None:
        """Write `event`; its field names are the attested ones."""
        values = asdict(event)
        values["time"] = event.time.isoformat(timespec="milliseconds")
        self.log.info("request", extra={"audit": values})
