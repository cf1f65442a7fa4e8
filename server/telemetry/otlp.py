"""Families, spans and log events in, bodies of OTLP/HTTP requests out (OTLP 1.8, JSON encoding).

Every message is built here from values of our own; there is no OpenTelemetry SDK in the process
that another library could hand an attribute to. Exemplars, trace state, links and status texts have
no place in these functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from server.telemetry.instruments import Distribution, Family, Point
from server.telemetry.vocabulary import SCHEMA, Attributes, Scalar

PATHS = {"traces": "/v1/traces", "metrics": "/v1/metrics", "logs": "/v1/logs"}
_CUMULATIVE = 2
_SERVER = 2
_FAILED = 2
_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """One finished request."""

    trace: str
    """32 hexadecimal digits: those of the request id."""
    name: str
    """An operation or a route of our own tables."""
    ended: datetime
    duration: timedelta
    first_token: timedelta | None
    """Since the beginning, of a stream."""
    failed: bool
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of our own loggers."""

    at: datetime
    level: str
    event: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Reading:
    """All families at one moment; counters run since `since`."""

    since: datetime
    at: datetime
    families: tuple[Family, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """Who sends: fixed when the service starts, from nothing that a request or the host says."""

    version: str
    instance: str
    """Random, of this boot."""

    def said(self) -> dict[str, Any]:
        """Return the resource message."""
        fixed = {
            "service.name": "tacit",
            "service.version": self.version,
            "service.instance.id": self.instance,
        }
        return {"attributes": _attributes(tuple(sorted(fixed.items())))}

    def scope(self) -> dict[str, Any]:
        """Return the instrumentation scope, which has no attributes."""
        return {"name": "tacit", "version": self.version}


def traces(resource: Resource, spans: Iterable[Span]) -> bytes:
    """Return an `ExportTraceServiceRequest`."""
    said = {"scope": resource.scope(), "spans": [_span(span) for span in spans], **_SCHEMA}
    return _body("resourceSpans", {"resource": resource.said(), "scopeSpans": [said], **_SCHEMA})


def logs(resource: Resource, events: Iterable[LogEvent]) -> bytes:
    """Return an `ExportLogsServiceRequest`."""
    records = [_record(event) for event in events]
    said = {"scope": resource.scope(), "logRecords": records, **_SCHEMA}
    return _body("resourceLogs", {"resource": resource.said(), "scopeLogs": [said], **_SCHEMA})


def metrics(resource: Resource, reading: Reading) -> bytes:
    """Return an `ExportMetricsServiceRequest`."""
    found = [_metric(family, reading) for family in reading.families if family.points]
    said = {"scope": resource.scope(), "metrics": found, **_SCHEMA}
    return _body(
        "resourceMetrics", {"resource": resource.said(), "scopeMetrics": [said], **_SCHEMA}
    )


_SCHEMA = {"schemaUrl": SCHEMA}


def _span(span: Span) -> dict[str, Any]:
    began = span.ended - span.duration
    said: dict[str, Any] = {
        "traceId": span.trace,
        "spanId": span.trace[16:],
        "name": span.name,
        "kind": _SERVER,
        "startTimeUnixNano": _nanoseconds(began),
        "endTimeUnixNano": _nanoseconds(span.ended),
        "attributes": _attributes(span.attributes),
        "status": {"code": _FAILED} if span.failed else {},
    }
    if span.first_token is not None:
        at = _nanoseconds(began + span.first_token)
        said["events"] = [{"timeUnixNano": at, "name": "first_token"}]
    return said


def _record(event: LogEvent) -> dict[str, Any]:
    return {
        "timeUnixNano": _nanoseconds(event.at),
        "severityNumber": _SEVERITIES[event.level],
        "severityText": event.level,
        "eventName": event.event,
        "body": {"stringValue": event.event},
        "attributes": _attributes(event.attributes),
    }


def _metric(family: Family, reading: Reading) -> dict[str, Any]:
    instrument = family.instrument
    said = {"name": instrument.name, "unit": instrument.unit, "description": instrument.text}
    if instrument.kind == "gauge":
        points = [_point(point, reading) for point in family.points]
        return said | {"gauge": {"dataPoints": points}}
    since = {"startTimeUnixNano": _nanoseconds(reading.since)}
    if instrument.kind == "counter":
        points = [since | _point(point, reading) for point in family.points]
        rising = {"isMonotonic": True, "aggregationTemporality": _CUMULATIVE}
        return said | {"sum": {"dataPoints": points, **rising}}
    bounds = list(instrument.bounds)
    points = [
        since | _point(point, reading) | {"explicitBounds": bounds} for point in family.points
    ]
    return said | {"histogram": {"dataPoints": points, "aggregationTemporality": _CUMULATIVE}}


def _point(point: Point, reading: Reading) -> dict[str, Any]:
    said: dict[str, Any] = {
        "timeUnixNano": _nanoseconds(reading.at),
        "attributes": _attributes(point.attributes),
    }
    if isinstance(point.value, Distribution):
        counts = [str(count) for count in point.value.counts]
        total = str(sum(point.value.counts))
        return said | {"count": total, "sum": point.value.total, "bucketCounts": counts}
    return said | {"asDouble": float(point.value)}


def _attributes(attributes: Attributes) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes]


def _value(value: Scalar) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def _nanoseconds(at: datetime) -> str:
    return str((at - _EPOCH) // timedelta(microseconds=1) * 1000)


def _body(name: str, value: dict[str, Any]) -> bytes:
    return json.dumps({name: [value]}, separators=(",", ":")).encode()
