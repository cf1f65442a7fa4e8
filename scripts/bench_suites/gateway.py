"""Tokens through Tacit (TLS, key, audit, rebuilt events) beside vLLM's own server, by turns.

Both run one model in the same vLLM with the same arguments, and each is idle while the other
answers. The model is smaller than the smallest Qwen3, so that what the gateway adds weighs more
than in any deployment. Wall clock, because that is what a client feels; the median of the rounds,
because what else a machine does hits single ones. On a busy machine the numbers say nothing.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench_suites._gateway_servers import ENGINE, bare, checkpoint, tacit
from scripts.bench_suites._row import Row
from scripts.bench_suites._streams import Load, Target, load

TOKENS = 16
"""Of every answer; the model is not allowed to end earlier."""
ROUNDS = {1: (5, 12), 8: (4, 32), 32: (2, 64)}
"""Streams -> rounds, and requests of one round on one side."""
_IDLE_SECONDS = 2
"""Pause before each load: vLLM's processes spin for a second after their last request."""
PER_TOKEN = 1 / 0.95
FIRST_TOKEN = 1.10
_PEER = "bare vLLM"


def rows() -> Iterator[Row]:
    """Measure at 1, 8 and 32 streams; there is nothing to measure without an engine."""
    if not ENGINE.exists():
        print("  not measured: the engine's environment is not installed (scripts/install engine)")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        yield from _measured(directory, checkpoint(directory))


def _measured(directory: Path, model: Path) -> Iterator[Row]:
    with (
        tacit(directory / "tacit", model, streams=max(ROUNDS)) as (ours, line),
        bare(directory / "bare", model, line=line) as peer,
    ):
        for streams, (rounds, requests) in ROUNDS.items():
            yield from _rows(ours, peer, streams=streams, rounds=rounds, requests=requests)


def _rows(ours: Target, peer: Target, *, streams: int, rounds: int, requests: int) -> Iterator[Row]:
    seen: dict[Target, list[Load]] = {ours: [], peer: []}
    for number in range(rounds + 1):
        turns = (ours, peer) if number % 2 else (peer, ours)
        for target in turns:
            # new numbers in each round: no answer comes from an earlier one's prefix cache
            first = 1_000_000 * streams + number * requests
            time.sleep(_IDLE_SECONDS)
            found = load(target, streams=streams, requests=requests, tokens=TOKENS, first=first)
            if number:  # the first round warms up
                seen[target].append(found)
    per_token, first_token = (
        [statistic(seen[target]) for target in (ours, peer)] for statistic in (_median, _p99)
    )
    what = f"{streams} stream{'s' if streams > 1 else ''}"
    yield Row(f"one token, {what}", per_token[0], _PEER, per_token[1], PER_TOKEN)
    yield Row(f"first token, p99, {what}", first_token[0], _PEER, first_token[1], FIRST_TOKEN)


def _median(loads: list[Load]) -> float:
    return statistics.median(seen.per_token for seen in loads)


def _p99(loads: list[Load]) -> float:
    return statistics.quantiles((first for seen in loads for first in seen.first), n=100)[98]
