"""Where a request goes, and a dictionary as the confidential JSON that is sent there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from attestation.confidential import Confidential


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the served model, what its engine can do, and the tenant's salt."""

    model: str
    reasoning: bool
    seeds: bool
    """Whether the backend survives `seed`; see `Controls`."""
    cache_salt: str


def encode(body: dict[str, Any]) -> Confidential[bytes]:
    """Return `body` as JSON; numbers that JSON lacks raise `ValueError`."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Confidential(text.encode())
