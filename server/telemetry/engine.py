"""vLLM's own metrics text in, families of listed names out: rebuilt, never passed on.

Names and labels are those of vLLM 0.32 (`vllm/v1/metrics/loggers.py`). A line that is not of this
shape, a name that is not listed and every other label are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from server.telemetry import vocabulary as names
from server.telemetry.instruments import Distribution, Family, Instrument, Kind, Point
from server.telemetry.vocabulary import Attributes, Vocabulary

MAX_TEXT = 512 * 1024
"""How much of an engine's text is read, in bytes; vLLM 0.32 writes about 90 KiB."""
_MAX_BUCKETS = 64

_SAMPLE = re.compile(r"vllm:([a-z0-9_]{1,64})(?:\{([^{}\n]{0,1024})\})? ([0-9.eE+-]{1,32})")
_LABEL = re.compile(r'([a-z_]{1,32})="([A-Za-z0-9_.+-]{0,64})"(?:,|$)')
_LABELS = (names.ENGINE, names.MODEL)


def _of(name: str, kind: Kind, text: str, *more: str) -> Instrument:
    return Instrument(f"vllm.{name}", kind, "", text, (*_LABELS, *more))


PASSED = MappingProxyType(
    {
        found.name.removeprefix("vllm."): found
        for found in (
            _of("num_requests_running", "gauge", "Requests in the engine's batch."),
            _of("num_requests_waiting", "gauge", "Requests waiting for a place in the batch."),
            _of("kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1."),
            _of("prefix_cache_queries", "counter", "Prompt tokens looked up in the prefix cache."),
            _of("prefix_cache_hits", "counter", "Prompt tokens found in the prefix cache."),
            _of("num_preemptions", "counter", "Requests put back because the KV cache was full."),
            _of("prompt_tokens", "counter", "Prompt tokens processed."),
            _of("generation_tokens", "counter", "Tokens generated."),
            _of("request_success", "counter", "Finished requests by reason.", names.FINISH),
            _of("time_to_first_token_seconds", "histogram", "Time to the first token."),
            _of("inter_token_latency_seconds", "histogram", "Time between two tokens."),
            _of("request_time_per_output_token_seconds", "histogram", "Time per token, averaged."),
            _of("e2e_request_latency_seconds", "histogram", "Time in the engine."),
            _of("request_queue_time_seconds", "histogram", "Time before the first batch."),
            _of("request_prefill_time_seconds", "histogram", "Time until the prompt was read."),
            _of("request_decode_time_seconds", "histogram", "Time spent on generating."),
        )
    }
)
"""vLLM's name without its prefix and suffixes -> what is passed on."""


@dataclass(slots=True)
class _Buckets:
    below: dict[float, int] = field(default_factory=dict)
    """Upper bound -> count of everything at or below it."""
    total: float = 0.0


def families(text: bytes, *, model: str, vocabulary: Vocabulary) -> tuple[Family, ...]:
    """Return what of an engine's metrics is listed; `model` is ours to say, not the engine's."""
    sums: dict[Instrument, list[Point]] = {}
    buckets: dict[Instrument, dict[Attributes, _Buckets]] = {}
    for line in text[:MAX_TEXT].decode("ascii", errors="replace").splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is None:
            continue
        value = _number(found[3])
        labels = dict(_LABEL.findall(found[2] or ""))
        if value is None:
            continue
        at = _attributes(labels, model, vocabulary=vocabulary)
        plain = PASSED.get(found[1].removesuffix("_total"))
        if plain is not None and plain.kind != "histogram":
            sums.setdefault(plain, []).append(Point(_kept(at, plain), value))
            continue
        base, _, part = found[1].rpartition("_")
        histogram = PASSED.get(base)
        if histogram is None or histogram.kind != "histogram":
            continue
        series = buckets.setdefault(histogram, {}).setdefault(_kept(at, histogram), _Buckets())
        bound = math.inf if labels.get("le") == "+Inf" else _number(labels.get("le", ""))
        if part == "sum":
            series.total = value
        elif part == "bucket" and bound is not None and len(series.below) < _MAX_BUCKETS:
            series.below[bound] = int(value)
    plain_families = (Family(one, tuple(points)) for one, points in sums.items())
    histograms = (_family(one, series) for one, series in buckets.items())
    return (*plain_families, *(family for family in histograms if family is not None))


def _attributes(labels: dict[str, str], model: str, *, vocabulary: Vocabulary) -> Attributes:
    engine = labels.get("engine", "")
    values = {
        names.MODEL: model,
        names.ENGINE: int(engine) if engine.isdecimal() and len(engine) < 5 else None,
        names.FINISH: labels.get("finished_reason"),
    }
    return vocabulary.rebuilt(values, values)


def _kept(attributes: Attributes, instrument: Instrument) -> Attributes:
    return tuple(pair for pair in attributes if pair[0] in instrument.attributes)


def _family(instrument: Instrument, series: dict[Attributes, _Buckets]) -> Family | None:
    """Return the histogram if every series has the same bounds and counts that only grow."""
    bounds: Iterable[float] | None = None
    points = []
    for at, found in series.items():
        ordered = sorted(found.below.items())
        own = [bound for bound, _ in ordered]
        counts = [count for _, count in ordered]
        steps = [after - before for before, after in zip([0, *counts], counts, strict=False)]
        if not own or own[-1] != math.inf or min(steps) < 0 or bounds not in (None, own):
            return None
        bounds = own
        points.append(Point(at, Distribution(tuple(steps), found.total)))
    finite = tuple(bound for bound in bounds or () if bound != math.inf)
    return Family(replace(instrument, bounds=finite), tuple(points))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value < 2**63 else None
