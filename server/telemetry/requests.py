"""Audit events of finished requests in, counts and spans out; telemetry knows nothing else of them.

Nothing is done per token; the counts are those of the audit record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from server.audit import AuditEvent, AuditSink
from server.telemetry import instruments as known
from server.telemetry import vocabulary as names
from server.telemetry.instruments import Instrument
from server.telemetry.meters import Meters
from server.telemetry.otlp import Span
from server.telemetry.vocabulary import Vocabulary

MAX_TENANTS = 100
"""Tenants with series of their own; those after them are counted together."""

_SPAN = (
    names.OPERATION,
    names.PROVIDER,
    names.MODEL,
    names.STREAM,
    names.INPUT_TOKENS,
    names.OUTPUT_TOKENS,
    names.ROUTE,
    names.STATUS,
    names.ERROR,
    names.REQUEST,
    names.TENANT,
)


@dataclass(slots=True)
class Requests:
    """Folds requests into `meters` and hands `traced` one span each."""

    meters: Meters
    traced: Callable[[Span], None] | None
    """None where no collector takes spans."""
    _tenants: set[str] = field(default_factory=set)

    def seen(self, event: AuditEvent) -> None:
        """Count one finished request."""
        values = attributes(event)
        self._count(event, values)
        if self.traced is not None:
            self.traced(span(event, self.meters.vocabulary))

    def _count(self, event: AuditEvent, values: dict[str, object]) -> None:
        meters, seconds = self.meters, event.duration_ms / 1000
        meters.add(known.REQUESTS, values)
        meters.observe(known.HTTP_DURATION, values, value=seconds)
        if event.model is not None:
            meters.observe(known.DURATION, values, value=seconds)
            self._stream(event, values)
        self._tokens(known.TOKENS, event, values)
        if event.tenant is not None and names.TENANT in meters.vocabulary.checks:
            self._tenant(event, values)

    def _stream(self, event: AuditEvent, values: dict[str, object]) -> None:
        first, tokens = event.first_byte_ms, event.output_tokens or 0
        if not event.stream or first is None or event.code is not None:
            return
        self.meters.observe(known.FIRST_TOKEN, values, value=first / 1000)
        if tokens > 1:
            each = (event.duration_ms - first) / 1000 / (tokens - 1)
            self.meters.observe(known.PER_TOKEN, values, value=each)

    def _tenant(self, event: AuditEvent, values: dict[str, object]) -> None:
        tenant = event.tenant
        if tenant is not None and len(self._tenants) < MAX_TENANTS:
            self._tenants.add(tenant)
        named = values | {names.TENANT: tenant if tenant in self._tenants else names.OTHER}
        self.meters.add(known.TENANT_REQUESTS, named)
        self._tokens(known.TENANT_TOKENS, event, named)

    def _tokens(self, instrument: Instrument, event: AuditEvent, values: dict[str, object]) -> None:
        for kind, count in (("input", event.input_tokens), ("output", event.output_tokens)):
            if count:
                self.meters.add(instrument, values | {names.TOKEN_TYPE: kind}, count=count)


@dataclass(frozen=True, slots=True)
class Observed:
    """An audit sink that counts what it records, and what it could not record."""

    inner: AuditSink
    requests: Requests

    async def record(self, event: AuditEvent) -> None:
        """Record `event` durably, then count it."""
        try:
            await self.inner.record(event)
        finally:
            self.requests.seen(event)


def attributes(event: AuditEvent) -> dict[str, object]:
    """Return what an event says under the names of the vocabulary, not yet checked."""
    generated = event.model is not None
    return {
        names.OPERATION: names.OPERATIONS.get(event.route or "") if generated else None,
        names.PROVIDER: "vllm" if generated else None,
        names.MODEL: event.model,
        names.STREAM: event.stream if generated else None,
        names.INPUT_TOKENS: event.input_tokens,
        names.OUTPUT_TOKENS: event.output_tokens,
        names.ROUTE: event.route or names.OTHER,
        names.STATUS: event.status,
        names.ERROR: event.code,
        names.REQUEST: event.request,
        names.TENANT: event.tenant,
    }


def span(event: AuditEvent, vocabulary: Vocabulary) -> Span:
    """Return the span of a request; what a client sent of a trace context plays no part."""
    kept = vocabulary.rebuilt(attributes(event), _SPAN)
    said = dict(kept)
    request = str(said[names.REQUEST])
    if request == names.OTHER:
        raise ValueError("a request id that is not ours")
    named = (said.get(names.OPERATION), said.get(names.MODEL))
    return Span(
        trace=request.removeprefix("req_"),
        name=" ".join(str(part) for part in named if part) or str(said[names.ROUTE]),
        ended=event.time,
        duration=timedelta(milliseconds=event.duration_ms),
        first_token=timedelta(milliseconds=event.first_byte_ms)
        if event.stream and event.first_byte_ms is not None
        else None,
        failed=event.status >= 500,
        attributes=kept,
    )
