"""Requests of each source, held to a rate: a source and the time in, a refusal or nothing out."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass, field

from attestation.errors import Undecidable

MAX_SOURCES = 8192
"""Sources remembered at once; the one seen longest ago is forgotten first, and starts anew."""


@dataclass(slots=True)
class TokenBuckets:
    """A token bucket for each source: `burst` requests at once, then `per_minute`.

    Memory is bounded whatever comes: at most `MAX_SOURCES` buckets of two numbers. For one thread
    (the event loop's).
    """

    per_minute: int
    burst: int
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, source: str, *, now: float) -> None:
        """Take a token at `now` (seconds of a monotonic clock), or raise `Undecidable`
        `rate-limited`.
        """
        tokens, then = self._buckets.pop(source, (float(self.burst), now))
        tokens = min(self.burst, tokens + max(0.0, now - then) * self.per_minute / 60)
        enough = tokens >= 1
        self._buckets[source] = (tokens - 1 if enough else tokens, now)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        if not enough:
            wait = math.ceil((1 - tokens) * 60 / self.per_minute)
            raise Undecidable("rate-limited", f"ask again in {wait} seconds")

    def __len__(self) -> int:
        return len(self._buckets)


def source(host: str) -> str:
    """Return what counts as one source: an IPv4 address, or an IPv6 /64, which one machine has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
