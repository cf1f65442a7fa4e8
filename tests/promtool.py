"""The real promtool, which judges what Prometheus would be given."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_FETCHED = Path(__file__).parents[1] / ".tools" / "promtool" / "promtool"


def promtool(*words: object, text: bytes = b"") -> tuple[int, list[str]]:
    """Run it and return its status and every line it said; skip where it is not there."""
    found = str(_FETCHED) if _FETCHED.exists() else shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (scripts/test-services)")
    command = [found, *map(str, words)]
    done = subprocess.run(command, input=text, capture_output=True, check=False, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode().splitlines()
