"""A relying party for prompts: an HTTP client that verifies a service first and pins its key."""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import anyio.to_thread
import httpx2

from attestation.appraise import Affirmed
from attestation.errors import ConfigError, NotAuthentic
from attestation.fetch import fetch_report
from attestation.policy import Policy
from attestation.report import Report
from attestation.tls import pinned_context
from attestation.types import Endorsements, nonce
from attestation.verifier import Verifier

Clock = Callable[[], datetime]


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
    policy: Policy
    clock: Clock = utc_now
    endorsements: Endorsements | None = None
    """Collateral to use instead of what the service staples to its report."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError("service-url", "the service URL is not https://host[:port][/v1]")

    @property
    def origin(self) -> tuple[str, int]:
        """Host and port that were attested; nothing is sent anywhere else."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 443

    def attest(self) -> Session:
        """Fetch fresh evidence, verify it, and pin the attested TLS key.

        Raises a `Refusal` when the service is not affirmed; no prompt was sent then.
        """
        challenge = nonce(secrets.token_bytes(32))
        host, port = self.origin
        fetched = fetch_report(f"https://{host}:{port}", nonce=challenge)
        report = Report.parse(fetched.report)
        result = Verifier(self.policy).verify(
            report.evidence,
            self.endorsements or report.endorsements,
            expected_nonce=challenge,
            now=self.clock(),
        )
        affirmed = result.affirmed(self.clock())
        keyset = report.keyset
        if keyset.tls_spki != str(fetched.spki):
            raise NotAuthentic("tls-key-mismatch", "the TLS key seen is not the attested one")
        return Session(affirmed, pinned_context(fetched.certificate_pem))


class _Pinned:
    """The state both transports share: one live session, renewed when it ends."""

    def __init__(self, party: RelyingParty) -> None:
        self.party = party
        self._lock = threading.Lock()
        self._session = party.attest()

    def check_origin(self, url: httpx2.URL) -> None:
        if url.scheme != "https" or (url.host, url.port or 443) != self.party.origin:
            raise NotAuthentic("other-origin", "a request left the attested host; it was not sent")

    def session(self, *, stale: Session | None = None) -> Session:
        """Return a live session; attest again when it expired or `stale` no longer connects."""
        with self._lock:
            expired = self.party.clock() >= self._session.affirmed.expires_at
            if expired or self._session is stale:
                self._session = self.party.attest()
            return self._session


class AttestedTransport(httpx2.BaseTransport):
    """Send requests only to a service that verified, over its attested key."""

    def __init__(self, party: RelyingParty) -> None:
        self._pinned = _Pinned(party)
        self._transports: dict[Session, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; a changed key means the handshake fails and nothing was sent."""
        self._pinned.check_origin(request.url)
        session = self._pinned.session()
        try:
            return self._transport(session).handle_request(request)
        except httpx2.ConnectError:
            # The service may have restarted with new keys: verify it anew, once.
            renewed = self._pinned.session(stale=session)
            return self._transport(renewed).handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports.values():
            transport.close()

    def _transport(self, session: Session) -> httpx2.HTTPTransport:
        # Old transports stay until close: a stream of another thread may still use one.
        if session not in self._transports:
            transport = httpx2.HTTPTransport(verify=session.tls, trust_env=False)
            self._transports[session] = transport
        return self._transports[session]


class AsyncAttestedTransport(httpx2.AsyncBaseTransport):
    """`AttestedTransport` for asyncio; verification runs in a thread."""

    def __init__(self, party: RelyingParty) -> None:
        self._pinned = _Pinned(party)
        self._transports: dict[Session, httpx2.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; a changed key means the handshake fails and nothing was sent."""
        self._pinned.check_origin(request.url)
        session = await anyio.to_thread.run_sync(self._pinned.session)
        try:
            return await self._transport(session).handle_async_request(request)
        except httpx2.ConnectError:
            renewed = await anyio.to_thread.run_sync(lambda: self._pinned.session(stale=session))
            return await self._transport(renewed).handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        for transport in self._transports.values():
            await transport.aclose()

    def _transport(self, session: Session) -> httpx2.AsyncHTTPTransport:
        if session not in self._transports:
            transport = httpx2.AsyncHTTPTransport(verify=session.tls, trust_env=False)
            self._transports[session] = transport
        return self._transports[session]


def attested_client(
    url: str, policy: Policy, *, endorsements: Endorsements | None = None
) -> httpx2.Client:
    """Verify the service at `url` under `policy` and return a client for it.

    Hand it to the SDK: `OpenAI(base_url=url + "/v1", http_client=attested_client(url, policy))`.
    Raises a `Refusal` when the service does not verify; proxies of the environment are not used.
    """
    party = RelyingParty(url, policy, endorsements=endorsements)
    return httpx2.Client(transport=AttestedTransport(party), trust_env=False, timeout=600)


def attested_async_client(
    url: str, policy: Policy, *, endorsements: Endorsements | None = None
) -> httpx2.AsyncClient:
    """Do as `attested_client`, for `AsyncOpenAI`."""
    party = RelyingParty(url, policy, endorsements=endorsements)
    return httpx2.AsyncClient(transport=AsyncAttestedTransport(party), trust_env=False, timeout=600)
