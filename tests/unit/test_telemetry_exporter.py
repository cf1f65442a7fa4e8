"""Pushing to a real OTLP receiver: what arrives, where it may go, what happens when it fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from attestation.errors import ConfigError
from server.telemetry.exporter import MAX_QUEUED, Exporter, Target
from server.telemetry.instruments import ACTIVE, DURATION, REQUESTS, Distribution, Family, Point
from server.telemetry.login import CollectorLogin
from server.telemetry.otlp import LogEvent, Reading, Resource, Span
from server.telemetry.settings import Collector
from server.tls import new_tls_identity
from tests.collector import collecting, said

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RESOURCE = Resource("0.1.0", "ab" * 16)
SPAN = Span(
    trace="0f" * 16,
    name="chat qwen3",
    ended=NOW,
    duration=timedelta(seconds=2),
    first_token=timedelta(seconds=1),
    failed=True,
    attributes=(("gen_ai.request.stream", True), ("http.route", "/v1/x"), ("n", 7)),
)
EVENT = LogEvent(NOW, "WARNING", "draining", (("tacit.count", 3),))
READING = Reading(
    NOW - timedelta(minutes=1),
    NOW,
    (
        Family(REQUESTS, (Point((("http.route", "/v1/x"),), 5),)),
        Family(ACTIVE, (Point((), 2),)),
        Family(DURATION, (Point((), Distribution((1,) * 15, 3.5)),)),
    ),
)


def target(collector, *, authority=None, url=None) -> Target:
    settings = Collector(url=url or collector.url, ca="ca.pem", interval_seconds=1)
    authority = authority or collector.identity.certificate
    return Target.of(settings, authority=authority, login=CollectorLogin(None, None))


def push(post, *items) -> Exporter:
    exporter = Exporter(post, RESOURCE, seconds=0.01)
    for item in items:
        offer = {Span: exporter.span, LogEvent: exporter.event, Reading: exporter.reading}
        offer[type(item)](item)
    with exporter.running():
        time.sleep(0.1)
    return exporter


def test_a_receiver_decodes_spans_events_and_metrics_as_opentelemetry_defines_them():
    with collecting() as collector:
        exporter = push(target(collector).post, SPAN, EVENT, READING)
        assert exporter.dropped() == {}
        (span,) = collector.spans()
        assert (span.name, span.trace_id.hex(), len(span.span_id)) == ("chat qwen3", "0f" * 16, 8)
        assert span.end_time_unix_nano - span.start_time_unix_nano == 2_000_000_000
        assert [event.name for event in span.events] == ["first_token"]
        assert (span.kind, span.status.code, span.status.message, span.trace_state) == (
            2,
            2,
            "",
            "",
        )
        assert said(span) == {"gen_ai.request.stream": True, "http.route": "/v1/x", "n": 7}
        (event,) = collector.events()
        assert (event.event_name, event.severity_number, said(event)) == (
            "draining",
            13,
            {"tacit.count": 3},
        )
        metrics = collector.metrics()
        requests = metrics["tacit.requests"].sum
        assert (requests.is_monotonic, requests.aggregation_temporality) == (True, 2)
        assert requests.data_points[0].as_double == 5
        assert metrics["tacit.requests.active"].gauge.data_points[0].as_double == 2
        (point,) = metrics["gen_ai.server.request.duration"].histogram.data_points
        assert (point.count, point.sum, len(point.bucket_counts)) == (15, 3.5, 15)
        assert len(point.explicit_bounds) == 14
        assert not point.exemplars
        resource = collector.messages[0].resource_spans[0].resource
        assert said(resource).keys() == {"service.name", "service.version", "service.instance.id"}


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_what_a_receiver_does_not_take_is_dropped_and_counted(status):
    with collecting(status=status) as collector:
        exporter = push(target(collector).post, SPAN, SPAN, EVENT)
    assert exporter.dropped()["traces"] == 2
    assert exporter.dropped()["logs"] >= 1


def test_a_redirect_is_not_followed():
    with collecting(status=307) as collector:
        exporter = push(target(collector).post, SPAN)
        assert "/elsewhere" not in collector.paths
    assert exporter.dropped()["traces"] == 1


def test_another_authority_gets_nothing():
    other = new_tls_identity(datetime.now(UTC), ("localhost",)).certificate
    with collecting() as collector:
        exporter = push(target(collector, authority=other).post, SPAN)
        assert collector.bodies == []
    assert exporter.dropped() == {"traces": 1}


def test_nobody_listening_costs_items_and_no_more():
    with collecting() as collector:
        gone = target(collector)
    began = time.monotonic()
    exporter = push(gone.post, SPAN, READING)
    assert exporter.dropped() == {"traces": 1, "metrics": 1}
    assert time.monotonic() - began < 5


def test_queues_are_bounded_and_offering_never_waits():
    exporter = Exporter(lambda *_: 200, RESOURCE, seconds=1000)
    began = time.monotonic()
    for _ in range(MAX_QUEUED + 10):
        exporter.span(SPAN)
        exporter.event(EVENT)
    exporter.reading(READING)
    exporter.reading(READING)
    assert exporter.dropped() == {"traces": 10, "logs": 10, "metrics": 1}
    assert time.monotonic() - began < 2


def test_a_collector_that_hangs_holds_up_only_the_telemetry_thread():
    entered = []

    def hang(path, body):
        entered.append(path)
        time.sleep(0.3)

    exporter = Exporter(hang, RESOURCE, seconds=0.01)
    exporter.span(SPAN)
    with exporter.running():
        while not entered:
            time.sleep(0.005)
        began = time.monotonic()
        exporter.span(SPAN)
        assert exporter.dropped() == {}
        assert time.monotonic() - began < 0.1


@pytest.mark.parametrize(
    "url",
    ["http://collector:4318", "https://u:p@collector", "https://collector/path", "https://c?q=1"],
)
def test_a_collector_is_https_and_a_host(url):
    with pytest.raises(ValueError, match="url"):
        Collector(url=url, ca="ca.pem", interval_seconds=1)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://c", b""),
        ("https://c", b"\xff"),
        ("https://c", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("https://c:99999", None),
        ("https://[::1", None),
    ],
)
def test_a_collector_that_cannot_be_meant_stops_the_start(url, authority):
    valid = new_tls_identity(NOW, ("c",)).certificate
    settings = Collector(url=url, ca="ca.pem", interval_seconds=1)
    with pytest.raises(ConfigError) as refused:
        Target.of(
            settings,
            authority=valid if authority is None else authority,
            login=CollectorLogin(None, None),
        )
    assert refused.value.code == "telemetry-collector"
