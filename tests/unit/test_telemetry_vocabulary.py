"""What may leave: closed names, closed values, and nothing of a canary whatever it is put into."""

from __future__ import annotations

import ast
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.audit import AuditEvent
from server.telemetry import otlp, prometheus
from server.telemetry import vocabulary as names
from server.telemetry.instruments import INSTRUMENTS
from server.telemetry.logs import log_event
from server.telemetry.meters import MAX_SERIES, Meters
from server.telemetry.requests import MAX_TENANTS, Requests
from server.telemetry.vocabulary import EVENTS, LOG_FIELDS, OTHER, Vocabulary

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
CANARY = "CANARY-7f1e"
VOCABULARY = Vocabulary.of(
    models=["qwen3"], routes=["/v1/chat/completions", "/v1/models"], tenants=True
)
RESOURCE = otlp.Resource("0.1.0", "ab" * 16)
CONTENT = [
    "messages",
    "system_instructions",
    "prompt",
    "completion",
    "tool.",
    "query",
    "documents",
    "memory",
    "conversation",
    "stop_sequences",
    "url.",
    "http.target",
    "user_agent",
    "header",
    "exception.message",
    "stacktrace",
    "code.",
    "db.",
    "enduser",
    "user.",
    "client.address",
    "network.",
    "server.address",
]


def event(**changes) -> AuditEvent:
    values = {
        "time": NOW,
        "request": "req_" + "0f" * 16,
        "tenant": "acme",
        "key": "key00000",
        "operator": None,
        "route": "/v1/chat/completions",
        "model": "qwen3",
        "stream": True,
        "status": 200,
        "code": None,
        "input_tokens": 5,
        "output_tokens": 3,
        "first_byte_ms": 100,
        "duration_ms": 300,
    }
    return AuditEvent(**(values | changes))


def left(requests: Requests, spans: list) -> bytes:
    families = requests.meters.families()
    reading = otlp.Reading(NOW, NOW, families)
    pushed = otlp.traces(RESOURCE, spans) + otlp.metrics(RESOURCE, reading)
    return pushed + prometheus.text(families)


def counted(*events: AuditEvent, vocabulary: Vocabulary = VOCABULARY) -> tuple[Requests, list]:
    spans: list = []
    requests = Requests(Meters(vocabulary), spans.append)
    for one in events:
        requests.seen(one)
    return requests, spans


def test_no_name_of_the_vocabulary_is_one_that_carries_content():
    assert [name for name in VOCABULARY.checks for word in CONTENT if word in name] == []


def test_every_attribute_of_an_instrument_is_in_the_vocabulary():
    used = {name for instrument in INSTRUMENTS for name in instrument.attributes}
    assert used <= set(VOCABULARY.checks)
    assert set(LOG_FIELDS.values()) <= set(VOCABULARY.checks)


def test_every_event_of_our_loggers_is_listed_or_withheld_on_purpose():
    said = {
        node.args[0].value
        for path in (ROOT / "server").rglob("*.py")
        if "vllm_plugin" not in path.parts and "retention" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"info", "warning", "error"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    withheld = {
        "request",  # the audit record, which the span of the request tells
        "broker undecided",  # before there is telemetry
        "broker session ended",
        "key released",
    }
    assert said - withheld <= EVENTS
    assert said >= EVENTS


def test_a_stream_is_counted_once_under_the_names_of_the_conventions():
    requests, spans = counted(event())
    text = prometheus.text(requests.meters.families()).decode()
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="qwen3"'
    assert f'gen_ai_server_time_to_first_token_seconds_bucket{{{labels},le="0.1"}} 1' in text
    assert f"gen_ai_server_time_per_output_token_seconds_sum{{{labels}}} 0.1" in text
    assert 'tacit_tokens_total{gen_ai_request_model="qwen3",gen_ai_token_type="input"} 5' in text
    assert (
        'tacit_requests_total{http_response_status_code="200",http_route="/v1/chat/completions"} 1'
        in text
    )
    (span,) = spans
    assert (span.name, span.trace) == ("chat qwen3", "0f" * 16)


def test_a_complete_answer_has_no_first_token():
    text = prometheus.text(counted(event(stream=False))[0].meters.families())
    assert b"time_to_first_token" not in text
    assert b"gen_ai_server_request_duration_seconds_count" in text


def test_a_refusal_is_counted_by_its_code_and_an_unknown_route_as_other():
    refused = event(route=None, model=None, status=404, code="route-unknown", stream=False)
    text = prometheus.text(counted(refused)[0].meters.families()).decode()
    assert (
        'tacit_requests_total{error_type="route-unknown",http_response_status_code="404",'
        'http_route="_OTHER"} 1' in text
    )


def test_tenants_are_named_only_where_the_settings_say_so():
    silent = Vocabulary.of(models=["qwen3"], routes=["/v1/models"], tenants=False)
    assert b"acme" not in left(*counted(event(), vocabulary=silent))
    assert b'tacit_tenant_requests_total{tacit_tenant="acme"} 1' in left(*counted(event()))


def test_tenants_beyond_a_hundred_are_counted_together():
    requests, _ = counted(*(event(tenant=f"tenant{n}") for n in range(MAX_TENANTS + 50)))
    text = prometheus.text(requests.meters.families()).decode()
    assert 'tacit_tenant_requests_total{tacit_tenant="_OTHER"} 50' in text


def test_series_are_bounded_whatever_the_values():
    vocabulary = Vocabulary.of(models=[f"m{n}" for n in range(5000)], routes=[], tenants=False)
    requests, _ = counted(*(event(model=f"m{n}") for n in range(5000)), vocabulary=vocabulary)
    points = {f.instrument.name: len(f.points) for f in requests.meters.families()}
    assert points["gen_ai.server.request.duration"] <= MAX_SERIES + 2


@pytest.mark.parametrize("field", ["tenant", "key", "operator", "route", "model", "code"])
def test_a_canary_in_any_text_of_an_event_does_not_leave(field):
    if field == "tenant":
        silent = Vocabulary.of(models=["qwen3"], routes=[], tenants=False)
        found = left(*counted(event(tenant=CANARY), vocabulary=silent))
    else:
        found = left(*counted(event(**{field: CANARY})))
    assert CANARY.encode() not in found


@given(
    names_=st.lists(st.text(max_size=20) | st.sampled_from(sorted(VOCABULARY.checks)), max_size=8),
    value=st.text(max_size=12).map(lambda text: CANARY + text)
    | st.lists(st.just(CANARY))
    | st.binary()
    | st.floats()
    | st.integers(),
)
def test_nothing_but_listed_values_is_ever_rebuilt(names_, value):
    values = dict.fromkeys(names_, value)
    for name, kept in VOCABULARY.rebuilt(values, values):
        assert name in VOCABULARY.checks
        assert kept == OTHER or type(kept) is int or name == names.TENANT
        assert kept == OTHER or VOCABULARY.checks[name](kept)


def test_a_request_id_that_is_not_ours_makes_no_span():
    with pytest.raises(ValueError, match="not ours"):
        counted(event(request=CANARY))


def record(message, **extra) -> logging.LogRecord:
    made = logging.LogRecord("tacit.api", 20, "x.py", 1, message, (CANARY,), None)
    made.__dict__.update(extra)
    return made


def test_a_log_event_leaves_by_its_name_and_fields_only():
    made = record("rejected", request="req_" + "0f" * 16, code="overloaded", words=CANARY)
    found = log_event(made, VOCABULARY)
    assert found is not None
    assert dict(found.attributes) == {
        names.REQUEST: "req_" + "0f" * 16,
        names.ERROR: "overloaded",
    }
    assert CANARY.encode() not in otlp.logs(RESOURCE, [found])


@pytest.mark.parametrize("field", sorted(LOG_FIELDS))
def test_a_canary_in_any_field_of_a_log_record_does_not_leave(field):
    found = log_event(record("bug", **{field: f"{CANARY} said"}), VOCABULARY)
    assert found is not None
    assert CANARY.encode() not in otlp.logs(RESOURCE, [found])


def test_words_that_are_no_listed_event_do_not_leave():
    assert log_event(record(f"rejected {CANARY}"), VOCABULARY) is None
    library = record("rejected")
    library.name = "uvicorn.error"
    assert log_event(library, VOCABULARY) is None
