"""The key broker over HTTP: KBS 0.4.0 routes around `KeyBroker`, as one ASGI application."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attestation.broker.accepting import TlsServer
from attestation.broker.adminserver import AdminServer
from attestation.broker.connection import Connection
from attestation.broker.http import answered, in_thread, no_route, read
from attestation.broker.kek import Kek
from attestation.broker.ledger import Ledger
from attestation.broker.native import MAX_CHALLENGE
from attestation.broker.protocol import (
    MAX_ATTEST,
    MAX_AUTH,
)
from attestation.broker.rate import TokenBuckets, source
from attestation.broker.release import Resource, unwrap
from attestation.broker.releaselog import Entry
from attestation.broker.rules import document_digest, key_digest
from attestation.broker.service import Clock, KeyBroker, Limits
from attestation.broker.settings import BrokerSettings
from attestation.broker.store import Store
from attestation.endorsers import open_endorser
from attestation.errors import ConfigError, Malformed, Undecidable

COOKIE = "kbs-session-id"
MAX_CONNECTIONS = 256
"""Open connections; with the limit of a body this bounds memory to some 256 MiB."""

log = logging.getLogger("tacit.broker")


def open_broker(settings: BrokerSettings, *, clock: Clock) -> KeyBroker:
    """Open store and KEK, load keys and policies; every wrapped key is opened once to prove it.

    A KEK that is down at this moment does not stop the broker: until it is back, guests are told
    to ask again.
    """
    file = settings.file
    resources = settings.resources()
    policy, token_key = settings.policy(), settings.token_key()
    endorser = open_endorser(file.endorsements, directory=settings.directory, clock=clock)
    with contextlib.ExitStack() as opened:  # what is open is closed if the rest is refused
        kek = settings.kek()
        opened.callback(kek.close)
        _prove(kek, resources)
        store = Store.open(settings.store_url)
        opened.callback(store.close)
        broker = KeyBroker(
            store=store,
            ledger=Ledger(store.database),
            policy=policy,
            resources=resources,
            endorser=endorser,
            kek=kek,
            token_key=token_key,
            limits=Limits(
                sessions=file.limits.sessions,
                session_time=timedelta(seconds=file.limits.session_seconds),
                per_minute=file.limits.per_minute,
                burst=file.limits.burst,
            ),
            clock=clock,
            entropy=secrets.token_bytes,
        )
        opened.pop_all()
    return broker


def _prove(kek: Kek, resources: Mapping[str, Resource]) -> None:
    """Open every wrapped key now, and not when the first guest waits for it."""
    try:
        kek.check()
        for resource in resources.values():
            unwrap(resource.wrapped, kek)
    except Undecidable as refusal:
        if refusal.code == "kek-mismatch":
            raise ConfigError(refusal.code, refusal.why) from None
        log.warning("kek not ready", extra={"code": refusal.code})


def create_broker(broker: KeyBroker) -> Starlette:
    """Return the ASGI application; serve it over TLS only, the cookie is `Secure`."""
    routes = Routes(broker, TokenBuckets(broker.limits.per_minute, broker.limits.burst))
    return Starlette(
        routes=[
            Route("/kbs/v0/auth", routes.auth, methods=["POST"]),
            Route("/kbs/v0/attest", routes.attest, methods=["POST"]),
            Route("/kbs/v0/resource/{path:path}", routes.resource, methods=["GET"]),
            Route("/v1/keys/challenge", routes.native_challenge, methods=["POST"]),
            Route("/v1/keys/release", routes.native_release, methods=["POST"]),
            Route("/.well-known/jwks.json", routes.jwks, methods=["GET"]),
            Route("/healthz", routes.health, methods=["GET"]),
        ],
        exception_handlers={404: no_route, 405: no_route},
    )


class BrokerServer(TlsServer):
    """uvicorn over TLS 1.3 that says when it listens, and writes no access log.

    `ready` is called with the port once connections are accepted. SIGTERM lets requests finish.
    """

    def __init__(
        self, broker: KeyBroker, settings: BrokerSettings, *, ready: Callable[[int], None]
    ) -> None:
        file = settings.file
        config = uvicorn.Config(
            create_broker(broker),
            host=file.listen.host,
            port=file.listen.port,
            http=Connection,
            ssl_certfile=settings.path(file.tls.certificate),
            ssl_keyfile=settings.path(file.tls.key),
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=30,
            limit_concurrency=MAX_CONNECTIONS,
        )
        try:
            config.load()
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise ConfigError("broker-tls", "certificate and key do not load") from None
        if config.ssl is None:
            raise ConfigError("broker-tls", "the broker is served over TLS only")
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        super().__init__(config)
        self._broker = broker
        self._ready = ready
        self._admin: AdminServer | None = None
        self.admin_port: int | None = None
        """Port of the admin listener, once there is one."""
        if file.admin is not None:
            self._admin = AdminServer(broker, settings, file.admin)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM; an address that cannot be had is a `ConfigError`."""
        super().run(sockets or [_listen(self.config.host, self.config.port)])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the wrapped keys into service, listen, and say so."""
        for path in self._broker.resources:
            _adopt(self._broker, path)
        await super().startup(sockets)
        if self.started and self._admin is not None:
            config = self._admin.config
            self.admin_port = await self._admin.listen(_listen(config.host, config.port))
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop both listeners; requests that are being answered are finished."""
        if self._admin is not None:
            await self._admin.shutdown()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError("broker-listen", f"{host}:{port}: {error.strerror}") from None


class Routes:
    """One method per route: read, ask the broker in a thread, answer.

    Whoever has no session yet is held to a rate, before a body is read.
    """

    def __init__(self, broker: KeyBroker, rate: TokenBuckets) -> None:
        self._broker = broker
        self._rate = rate

    async def auth(self, request: Request) -> Response:
        """`POST /kbs/v0/auth`."""

        async def answer() -> Response:
            body = await self._body(request, limit=MAX_AUTH)
            session, challenge = await in_thread(lambda: self._broker.challenge(body))
            response = Response(challenge, media_type="application/json")
            response.set_cookie(
                COOKIE,
                session.id,
                max_age=int(self._broker.limits.session_time.total_seconds()),
                path="/kbs/v0",
                secure=True,
                httponly=True,
                samesite="strict",
            )
            return response

        return await answered(answer)

    async def attest(self, request: Request) -> Response:
        """`POST /kbs/v0/attest`."""

        async def answer() -> Response:
            session = request.cookies.get(COOKIE)
            body = await self._body(request, limit=MAX_ATTEST)
            token = await in_thread(lambda: self._broker.attest(session, body))
            return Response(token, media_type="application/json")

        return await answered(answer)

    async def resource(self, request: Request) -> Response:
        """`GET /kbs/v0/resource/{repo}/{type}/{tag}`."""

        async def answer() -> Response:
            session = request.cookies.get(COOKIE)
            path = request.path_params["path"]
            sealed = await in_thread(lambda: self._broker.resource(session, path))
            return Response(sealed, media_type="application/json")

        return await answered(answer)

    async def native_challenge(self, request: Request) -> Response:
        """`POST /v1/keys/challenge`."""

        async def answer() -> Response:
            body = await self._body(request, limit=MAX_CHALLENGE)
            challenge = await in_thread(lambda: self._broker.native_challenge(body))
            return Response(challenge, media_type="application/json")

        return await answered(answer)

    async def native_release(self, request: Request) -> Response:
        """`POST /v1/keys/release`."""

        async def answer() -> Response:
            body = await self._body(request, limit=MAX_ATTEST)
            sealed = await in_thread(lambda: self._broker.native_release(body))
            return Response(sealed, media_type="application/json")

        return await answered(answer)

    async def jwks(self, _request: Request) -> Response:
        """The key attestation results are signed with."""
        return Response(self._broker.token_key.jwks, media_type="application/json")

    async def health(self, _request: Request) -> Response:
        """Whether the process answers; it says nothing about the store."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _body(self, request: Request, *, limit: int) -> bytes:
        host = "unknown" if request.client is None else request.client.host
        self._rate.take(source(host), now=time.monotonic())
        try:
            return await read(request, limit=limit)
        except Malformed as refused:
            refusal = refused
            act = request.url.path.rsplit("/", 1)[-1]
            await in_thread(lambda: self._broker.reject(act, refusal))
            raise


def _adopt(broker: KeyBroker, path: str) -> None:
    wrapped = broker.find(path).wrapped
    version = getattr(wrapped, "minimum_version", 1)
    resource = broker.resources[path]
    facts = {
        "at": broker.clock().isoformat(timespec="microseconds"),
        "event": "imported",
        "code": "ok",
        "session": None,
        "resource": path,
        "policy": str(resource.policy.digest),
        "evidence": None,
        "manifest": getattr(wrapped, "manifest", None),
        "minimum_version": version,
        "simulated": None,
        "tenant": resource.rules.tenant,
        "rules": str(resource.rules.digest),
        "key": str(key_digest(wrapped)),
    }
    document = document_digest(wrapped)
    entry = Entry.model_validate(facts)
    broker.store.adopt(path, document=document, minimum_version=version, entry=entry)
