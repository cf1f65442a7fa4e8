"""Sealed weights into vLLM beside its stock loader, the same checkpoint by turns in one process.

Both fill memory that was never touched, as at a boot. Once the files lie in the page cache, once
they are on the disk alone, as after one. The sealed load includes signature, tag table, key and
decryption. Wall clock, because decryption runs beside copying; the lower quartile, because what is
slower than that is interference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bench_suites._row import Row

PROMISE = 1.10
ROUNDS = 11
ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".venv-engine" / "bin" / "python"


def rows() -> Iterator[Row]:
    """Measure in the engine's environment; there is nothing to measure without it."""
    if not ENGINE.exists():
        print("  not measured: the engine's environment is not installed (scripts/install engine)")
        return
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [ENGINE, "-m", "scripts.bench_suites._load_engine", directory, str(ROUNDS)],
            cwd=ROOT,
            env=_environment(directory),
            capture_output=True,
            check=False,
        )
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stderr)
        raise RuntimeError("the engine did not load")
    found = json.loads(done.stdout.splitlines()[-1])
    for where, seconds in found["seconds"].items():
        yield Row(
            f"load {found['bytes'] / 1e6:.0f} MB into vLLM, from the {where}",
            _quartile(seconds["sealed"]),
            peer_name="stock loader",
            peer=_quartile(seconds["stock"]),
            at_most=PROMISE,
        )


def _quartile(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 4]


def _environment(directory: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": directory,
        "TMPDIR": directory,
        "VLLM_PLUGINS": "tacit",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        # glibc gives freed memory back, instead of learning to keep it: a boot loads once
        "MALLOC_MMAP_THRESHOLD_": str(128 * 1024),
    }
