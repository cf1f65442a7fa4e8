"""`Exchange`: what the onion notes about one request while it is under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.quota import Allowance

_KEY = "tacit.exchange"


@dataclass(slots=True)
class Exchange:
    """Notes for the audit record. Nothing the client wrote is ever put here."""

    request_id: str
    route: str | None = None
    tenant: str | None = None
    key_id: str | None = None
    operator: str | None = None
    code: str | None = None
    model: str | None = None
    stream: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    allowance: Allowance | None = None
    """What the tenant may still ask; None until the tenant is known."""
    body_read: bool = False
    """Whether the whole request body was taken; if not, the connection cannot be reused."""


def attach(scope: dict[str, Any], exchange: Exchange) -> None:
    """Put `exchange` where every layer finds it."""
    scope[_KEY] = exchange


def authorization(scope: Mapping[str, Any]) -> str | None:
    """Return the one Authorization header of this request.

    Two would let a proxy and this server disagree about who asks, so they count as none.
    """
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else None


def of(scope: Mapping[str, Any]) -> Exchange:
    """Return the exchange of this request."""
    found = scope[_KEY]
    if not isinstance(found, Exchange):
        raise TypeError("no exchange in this scope")
    return found


def allowance(scope: Mapping[str, Any]) -> Allowance:
    """Return what the tenant of this request may still ask."""
    found = of(scope).allowance
    if found is None:
        raise TypeError("no tenant was admitted in this scope")
    return found
