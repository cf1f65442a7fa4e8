"""A relying party for prompts: an HTTP client that verifies a service first and pins its key."""

from __future__ import annotations

import re
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import cast

import anyio
import anyio.to_thread
import httpx2

from attestation.appraise import Affirmed
from attestation.errors import (
    ConfigError,
    Malformed,
    NotAffirmed,
    NotAuthentic,
    Refusal,
    Undecidable,
)
from attestation.fetch import fetch_report
from attestation.policy import Policy
from attestation.pools import Answer, AsyncAnswer, Pool, Pools
from attestation.report import Report
from attestation.tls import pinned_context
from attestation.types import Endorsements, nonce
from attestation.verifier import Verifier

Clock = Callable[[], datetime]

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")
_TIMEOUT = httpx2.Timeout(600, connect=5)
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


def utc_now() -> datetime:
    """Return the time of this machine; the one clock a client trusts."""
    return datetime.now(UTC)  # noqa: TID251 - the client is a shell


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A verified service: what was affirmed, and a TLS context only its attested key completes."""

    affirmed: Affirmed
    tls: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Verify one service under one policy; every call asks it for fresh evidence."""

    url: str
    """`https://host[:port]`, with or without the SDK's `/v1`."""
    policy: Policy
    clock: Clock = utc_now
    endorsements: Endorsements | None = None
    """Collateral to use instead of what the service staples to its report."""
    timeout_s: float = 30
    """Seconds the service has to deliver a report."""
    affinity: str = ""
    """An opaque label that TLS sends in the clear, before the host's name: a blind load balancer
    keeps by it one client on one replica. Random, and of no meaning to anybody."""

    def __post_init__(self) -> None:
        self.policy.require_signature()
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL:
            raise ConfigError("service-url", "the service URL cannot be read") from None
        extra = url.userinfo or url.query or url.fragment or url.port == 0
        if (
            url.scheme != "https"
            or not url.host
            or extra
            or url.path.rstrip("/") not in {"", "/v1"}
        ):
            raise ConfigError("service-url", "the service URL is not https://host[:port][/v1]")
        if self.affinity and not _LABEL.fullmatch(self.affinity):
            raise ConfigError("service-affinity", "affinity is not 1 to 40 of a-z, 0-9 and hyphens")

    @property
    def server_name(self) -> str:
        """Return what TLS sends as the name of the server; empty for the URL's own host."""
        if not self.affinity:
            return ""
        host = httpx2.URL(self.url).raw_host.decode("ascii").lower()
        return self.affinity if _ADDRESS.fullmatch(host) else f"{self.affinity}.{host}"

    @property
    def origin(self) -> str:
        """`host[:port]` that is attested, in lower case and IDNA; 443 is left out."""
        return _origin(httpx2.URL(self.url))

    def admit(self, request: httpx2.Request) -> None:
        """Let a request go, to the attested host only and under the name that keeps a replica."""
        self.check_origin(request.url)
        if self.server_name:
            request.extensions["sni_hostname"] = self.server_name

    def check_origin(self, url: httpx2.URL) -> None:
        """Raise `NotAuthentic` `other-origin` unless `url` is on the attested host."""
        if url.scheme != "https" or _origin(url) != self.origin:
            raise NotAuthentic("other-origin", "a request left the attested host; it was not sent")

    def attest(self) -> Session:
        """Fetch fresh evidence, verify it, and pin the attested TLS key.

        Raises a `Refusal` when the service is not affirmed; no prompt was sent then.
        """
        challenge = nonce(secrets.token_bytes(32))
        fetched = fetch_report(
            f"https://{self.origin}",
            nonce=challenge,
            timeout_s=self.timeout_s,
            server_name=self.server_name,
        )
        report = Report.parse(fetched.report)
        now = self.clock()
        result = Verifier(self.policy).verify(
            report.evidence,
            self.endorsements or report.endorsements,
            expected_nonce=challenge,
            now=now,
        )
        affirmed = result.affirmed(now)
        report.check_tls_key(fetched.spki)
        return Session(affirmed, pinned_context(fetched.certificate_pem))


def _origin(url: httpx2.URL) -> str:
    return url.netloc.decode("ascii").lower()


_UNCONNECTED: Mapping[type[Refusal], type[Refusal]] = MappingProxyType(
    {
        kind: type(kind.__name__, (kind, httpx2.ConnectError), {"__doc__": kind.__doc__})
        for kind in (Malformed, NotAuthentic, NotAffirmed, Undecidable)
    }
)
"""Each kind of refusal as a failure to connect, which is what it is to an HTTP client: the SDK
raises its own `APIConnectionError` with this, still a `Refusal`, as `__cause__`."""


def _attest_again(party: RelyingParty) -> Session:
    try:
        return party.attest()
    except Refusal as refusal:
        raise _UNCONNECTED[type(refusal)](refusal.code, refusal.why) from None


_Threaded = Pool[httpx2.HTTPTransport]
_Looped = Pool[httpx2.AsyncHTTPTransport]


class AttestedTransport(httpx2.BaseTransport):
    """Send requests only to a service that verified, over its attested key; threads may share it.

    Construction verifies and raises a `Refusal`. A request attests again when the affirmation has
    ended, or when the handshake fails because the service restarted with new keys; a refusal is
    then a `httpx2.ConnectError` as well, and nothing of the request was sent.
    """

    def __init__(self, party: RelyingParty) -> None:
        self._party = party
        self._pools = Pools(_threaded(party.attest()))
        self._renewing = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; raises `NotAuthentic` `other-origin` for another host."""
        self._party.admit(request)
        pool = self._pool(stale=None)
        try:
            return self._send(request, pool)
        except httpx2.ConnectError:  # before the first byte of a request; nothing else is repeated
            return self._send(request, self._pool(stale=pool))

    def close(self) -> None:
        """Close the connections."""
        for connections in self._pools.all():
            connections.close()

    def _pool(self, *, stale: _Threaded | None) -> _Threaded:
        pool = self._pools.lend(self._party.clock(), stale=stale)
        if pool is not None:
            return pool
        with self._renewing:  # one thread verifies; the others wait for what it finds
            pool = self._pools.lend(self._party.clock(), stale=stale)
            return pool or self._pools.renew(_threaded(_attest_again(self._party)))

    def _send(self, request: httpx2.Request, pool: _Threaded) -> httpx2.Response:
        try:
            response = pool.connections.handle_request(request)
        except BaseException:
            self._give_back(pool)
            raise
        stream = cast("httpx2.SyncByteStream", response.stream)
        response.stream = Answer(stream, lambda: self._give_back(pool))
        return response

    def _give_back(self, pool: _Threaded) -> None:
        for connections in self._pools.give_back(pool):
            connections.close()


class AsyncAttestedTransport(httpx2.AsyncBaseTransport):
    """`AttestedTransport` for asyncio; later verifications run in a thread, the first one here."""

    def __init__(self, party: RelyingParty) -> None:
        self._party = party
        self._pools = Pools(_looped(party.attest()))
        self._renewing = anyio.Lock()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; raises `NotAuthentic` `other-origin` for another host."""
        self._party.admit(request)
        pool = await self._pool(stale=None)
        try:
            return await self._send(request, pool)
        except httpx2.ConnectError:  # before the first byte of a request; nothing else is repeated
            return await self._send(request, await self._pool(stale=pool))

    async def aclose(self) -> None:
        """Close the connections."""
        for connections in self._pools.all():
            await connections.aclose()

    async def _pool(self, *, stale: _Looped | None) -> _Looped:
        pool = self._pools.lend(self._party.clock(), stale=stale)
        if pool is not None:
            return pool
        async with self._renewing:  # one task verifies; the others wait for what it finds
            pool = self._pools.lend(self._party.clock(), stale=stale)
            if pool is not None:
                return pool
            session = await anyio.to_thread.run_sync(
                _attest_again, self._party, abandon_on_cancel=True
            )
            return self._pools.renew(_looped(session))

    async def _send(self, request: httpx2.Request, pool: _Looped) -> httpx2.Response:
        try:
            response = await pool.connections.handle_async_request(request)
        except BaseException:
            await self._give_back(pool)
            raise
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = AsyncAnswer(stream, lambda: self._give_back(pool))
        return response

    async def _give_back(self, pool: _Looped) -> None:
        for connections in self._pools.give_back(pool):
            await connections.aclose()


def _threaded(session: Session) -> _Threaded:
    transport = httpx2.HTTPTransport(verify=session.tls, trust_env=False, limits=_LIMITS)
    return Pool(transport, session.affirmed.expires_at)


def _looped(session: Session) -> _Looped:
    transport = httpx2.AsyncHTTPTransport(verify=session.tls, trust_env=False, limits=_LIMITS)
    return Pool(transport, session.affirmed.expires_at)


def attested_client(
    url: str, policy: Policy, *, endorsements: Endorsements | None = None, affinity: str = ""
) -> httpx2.Client:
    """Verify the service at `url` under `policy` and return a client for it.

    Hand it to the SDK: `OpenAI(base_url=url + "/v1", http_client=attested_client(url, policy))`.
    Raises a `Refusal` when the service does not verify, `ConfigError` for a wrong URL. What fails
    later reaches the caller as `openai.APIConnectionError` whose `__cause__` is the `Refusal`.
    Proxies of the environment are not used. `affinity` is an opaque label by which a load balancer
    that sees no content may keep this client, and its prefix cache, on one replica. The SDK's
    WebSockets do not pass through this client.
    """
    party = RelyingParty(url, policy, endorsements=endorsements, affinity=affinity)
    return httpx2.Client(transport=AttestedTransport(party), trust_env=False, timeout=_TIMEOUT)


def attested_async_client(
    url: str, policy: Policy, *, endorsements: Endorsements | None = None, affinity: str = ""
) -> httpx2.AsyncClient:
    """Do as `attested_client`, for `AsyncOpenAI`.

    Returns when the service is verified; inside a running loop, call it in a thread.
    """
    party = RelyingParty(url, policy, endorsements=endorsements, affinity=affinity)
    transport = AsyncAttestedTransport(party)
    return httpx2.AsyncClient(transport=transport, trust_env=False, timeout=_TIMEOUT)
