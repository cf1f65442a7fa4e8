"""Quotas: what a tenant may ask in a minute and at once, settled by what it really used.

A request reserves the most tokens it could cost before the engine sees it, and gets back what it
did not use. So the requests that begin between any two moments use at most their tenant's bucket
and what flowed in between them (`server.bucket`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from server.access import TenantSettings
from server.bucket import Bucket, Hold
from server.errors import BadRequest, Forbidden, Overloaded

Monotonic = Callable[[], int]
"""Nanoseconds since any fixed moment."""
Headers = tuple[tuple[bytes, bytes], ...]

_SECOND = 10**9


class Allowance(Protocol):
    """What one request may still ask."""

    def place(self) -> AbstractContextManager[None]:
        """Hold one of the tenant's places and one request of its minute, or raise `Overloaded`."""
        ...

    def serves(self, model: str) -> bool:
        """Say whether the tenant may use `model`, which it otherwise need not know of."""
        ...

    def reserve(self, tokens: int) -> None:
        """Set aside, once, the most that the request can cost, or raise `Overloaded`."""
        ...

    def settle(self, used: int | None) -> None:
        """Return what was not used; None when nobody knows, so the reservation stays spent."""
        ...

    def headers(self) -> Headers:
        """Return OpenAI's rate-limit headers."""
        ...


class Quotas(Protocol):
    """What decides how much a tenant may ask."""

    def allowance(self, tenant: str) -> Allowance:
        """Return what one request of `tenant` may ask, or raise `Forbidden`."""
        ...


class Unmetered:
    """Quotas of a deployment without a `tenants` section: the limits of all are those of each."""

    def allowance(self, tenant: str) -> Allowance:
        """Admit everyone."""
        del tenant
        return self

    def place(self) -> AbstractContextManager[None]:
        """Count nothing."""
        return nullcontext()

    def serves(self, model: str) -> bool:
        """Serve every model."""
        del model
        return True

    def reserve(self, tokens: int) -> None:
        """Count nothing."""

    def settle(self, used: int | None) -> None:
        """Count nothing."""

    def headers(self) -> Headers:
        """Promise nothing."""
        return ()


class TenantQuotas:
    """Quotas of the tenants that the measured settings list; any other is refused.

    Its memory is bounded by that list, whatever keys and names are tried.
    """

    def __init__(self, tenants: Mapping[str, TenantSettings], monotonic: Monotonic) -> None:
        now = monotonic()
        self._monotonic = monotonic
        self._tenants = MappingProxyType(
            {name: _Account(tenant, now) for name, tenant in tenants.items()}
        )

    def allowance(self, tenant: str) -> Allowance:
        """Return what one request of `tenant` may ask, or raise `Forbidden`."""
        account = self._tenants.get(tenant)
        if account is None:
            raise Forbidden("tenant-unknown")
        return _Metered(account, self._monotonic)


def quotas(tenants: Mapping[str, TenantSettings] | None, monotonic: Monotonic) -> Quotas:
    """Return the quotas that the settings ask for."""
    return Unmetered() if tenants is None else TenantQuotas(tenants, monotonic)


class _Account:
    def __init__(self, settings: TenantSettings, now: int) -> None:
        self.settings = settings
        self.requests = Bucket(settings.requests_per_minute, now)
        self.tokens = Bucket(settings.tokens_per_minute, now)
        self.in_flight = 0


@dataclass(slots=True)
class _Metered:
    account: _Account
    monotonic: Monotonic
    held: Hold | None = field(default=None)

    @contextmanager
    def place(self) -> Iterator[None]:
        account = self.account
        if account.in_flight >= account.settings.concurrent_requests:
            raise Overloaded("tenant-busy", retry_after=1)
        now = self.monotonic()
        if not account.requests.spend(1, now):
            raise _too_soon(account.requests, 1, now)
        account.in_flight += 1
        try:
            yield
        finally:
            account.in_flight -= 1

    def serves(self, model: str) -> bool:
        return model in self.account.settings.models

    def reserve(self, tokens: int) -> None:
        bucket, now = self.account.tokens, self.monotonic()
        if tokens > bucket.per_minute:
            raise BadRequest("over-quota")
        self.held = bucket.hold(tokens, now)
        if self.held is None:
            raise _too_soon(bucket, tokens, now)

    def settle(self, used: int | None) -> None:
        if self.held is not None:
            spent = self.held.amount if used is None else used
            self.account.tokens.settle(self.held, spent, self.monotonic())
            self.held = None

    def headers(self) -> Headers:
        now = self.monotonic()
        found: Headers = ()
        for kind, bucket in (("requests", self.account.requests), ("tokens", self.account.tokens)):
            said = (
                ("limit", str(bucket.per_minute)),
                ("remaining", str(bucket.left(now))),
                ("reset", _duration(bucket.full_in(now))),
            )
            found += tuple((f"x-ratelimit-{n}-{kind}".encode(), v.encode()) for n, v in said)
        return found


def _too_soon(bucket: Bucket, amount: int, now: int) -> Overloaded:
    wait = bucket.wait(amount, now)
    return Overloaded("rate_limit_exceeded", retry_after=-(-wait // _SECOND))


def _duration(nanoseconds: int) -> str:
    """Write a time as OpenAI does: `12ms`, `1.5s`, `1m0s`."""
    milliseconds = -(-nanoseconds // 10**6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    return f"{milliseconds // 60_000}m{milliseconds % 60_000 / 1000:g}s"
