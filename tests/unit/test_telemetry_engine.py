"""vLLM's numbers are rebuilt by name, and the whole exposition is what promtool calls clean."""

from __future__ import annotations

import pytest

from server.telemetry import prometheus
from server.telemetry import vocabulary as names
from server.telemetry.engine import PASSED, families
from server.telemetry.instruments import (
    INSTRUMENTS,
    Distribution,
    Family,
    Instrument,
    Point,
)
from server.telemetry.vocabulary import Vocabulary
from tests.promtool import promtool

VOCABULARY = Vocabulary.of(models=["qwen3"], routes=["/v1/models"], tenants=True)
SAID = b"""# HELP vllm:num_requests_running CANARY words
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="CANARY"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="x"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="x"} 120.0
vllm:prompt_tokens_created{engine="0",model_name="x"} 1.7e+09
vllm:request_success_total{engine="0",finished_reason="stop",model_name="x"} 3.0
vllm:request_success_total{engine="0",finished_reason="CANARY",model_name="x"} 1.0
vllm:cache_config_info{block_size="16",prefix="CANARY"} 1.0
vllm:lora_requests_info{running="CANARY"} 1.0
vllm:num_requests_waiting{engine="0",model_name="x"} NaN
vllm:num_preemptions_total{engine="0",model_name="x"} -1
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="x"} 1.0
vllm:request_queue_time_seconds_bucket{engine="0",le="0.5",model_name="x"} 3.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="x"} 4.0
vllm:request_queue_time_seconds_count{engine="0",model_name="x"} 4.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="x"} 1.5
vllm:request_decode_time_seconds_bucket{engine="0",le="0.3",model_name="x"} 5.0
vllm:request_decode_time_seconds_bucket{engine="0",le="+Inf",model_name="x"} 4.0
python_info{implementation="CANARY"} 1.0
http_requests_total{handler="CANARY"} 1.0
"""


def read(text: bytes = SAID) -> dict[str, Family]:
    return {f.instrument.name: f for f in families(text, model="qwen3", vocabulary=VOCABULARY)}


def test_listed_numbers_are_passed_on_under_our_name_of_the_model():
    found = read()
    (running,) = found["vllm.num_requests_running"].points
    assert running == Point(((names.MODEL, "qwen3"), (names.ENGINE, 0)), 2.0)
    assert found["vllm.prompt_tokens"].points[0].value == 120.0
    assert found["vllm.kv_cache_usage_perc"].points[0].value == 0.25


@pytest.mark.parametrize("name", sorted(PASSED))
def test_every_listed_name_is_read_as_vllm_writes_it(name):
    kind = PASSED[name].kind
    suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket"}[kind]
    bound = 'le="+Inf",' if kind == "histogram" else ""
    line = f'vllm:{name}{suffix}{{{bound}engine="0",model_name="x"}} 4.0\n'
    value = Distribution((4,), 0.0) if kind == "histogram" else 4.0
    found = read(line.encode())[f"vllm.{name}"]
    assert found.points == (Point(((names.MODEL, "qwen3"), (names.ENGINE, 0)), value),)


def test_a_histogram_keeps_its_bounds_and_counts():
    queue = read()["vllm.request_queue_time_seconds"]
    assert queue.instrument.bounds == (0.3, 0.5)
    assert queue.points[0].value == Distribution((1, 2, 1), 1.5)


def test_what_is_not_listed_not_a_number_or_not_a_histogram_is_left_out():
    assert set(read()) == {
        "vllm.num_requests_running",
        "vllm.kv_cache_usage_perc",
        "vllm.prompt_tokens",
        "vllm.request_success",
        "vllm.request_queue_time_seconds",
    }
    assert b"CANARY" not in prometheus.text(read().values())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe" * 100,
        b"vllm:" * 1000,
        b"vllm:num_requests_running{" + b"a" * 5000,
        b'vllm:num_requests_running{engine="9999999999"} 1e999',
        b'vllm:request_queue_time_seconds_bucket{le="nan"} 1\n' * 9,
        b'vllm:request_queue_time_seconds_bucket{le=""} 1',
        b"vllm:request_queue_time_seconds_sum 1",
        b'vllm:num_requests_running{model_name="a\\"b"} 1 2 3',
    ],
)
def test_an_engine_that_talks_nonsense_adds_nothing(text):
    assert read(text) == {}


def everything() -> list[Family]:
    def value(one: Instrument) -> float | Distribution:
        if one.kind == "histogram":
            return Distribution(tuple(range(len(one.bounds) + 1)), 1.25)
        return 1764072000.5 if one.kind == "gauge" else 7

    sample = {
        names.MODEL: "qwen3",
        names.STATUS: 200,
        names.ROUTE: "/v1/models",
        names.ERROR: "overloaded",
        names.TENANT: "acme",
        names.SIGNAL: "logs",
        names.OPERATION: "chat",
        names.PROVIDER: "vllm",
        names.TOKEN_TYPE: "input",
        names.ENGINE: 0,
        names.FINISH: "stop",
    }
    return [
        Family(one, (Point(VOCABULARY.rebuilt(sample, one.attributes), value(one)),))
        for one in (*INSTRUMENTS, *PASSED.values())
    ]


def test_promtool_reads_every_metric_and_finds_nothing_wrong_with_ours():
    text = prometheus.text(everything())
    ours = b"".join(line for line in text.splitlines(keepends=True) if b"vllm:" not in line)
    assert promtool("check", "metrics", text=ours) == (0, [])
    _, said = promtool("check", "metrics", text=text)
    assert [line for line in said if not line.startswith("vllm:")] == []  # their colons, a lint


def test_every_instrument_appears_under_its_own_name():
    lines = prometheus.text(everything()).decode().splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == len(INSTRUMENTS) + len(PASSED)


def test_label_values_are_escaped():
    one = Instrument("tacit.x", "gauge", "", "words \\ and\nlines", ("k",))
    text = prometheus.text([Family(one, (Point((("k", 'a"b\\c\nd'),), 1),))])
    assert b"# HELP tacit_x words \\\\ and\\nlines" in text
    assert b'tacit_x{k="a\\"b\\\\c\\nd"} 1' in text
