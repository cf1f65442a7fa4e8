"""The key broker over HTTP: KBS 0.4.0 routes around `KeyBroker`, as one ASGI application."""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from attestation.broker.kek import Kek
from attestation.broker.protocol import (
    ERROR_TYPE,
    MAX_ATTEST,
    MAX_AUTH,
    ErrorInformation,
)
from attestation.broker.release import Resource, unwrap
from attestation.broker.releaselog import Entry
from attestation.broker.service import Clock, KeyBroker, Limits
from attestation.broker.settings import BrokerSettings
from attestation.broker.store import Store
from attestation.codec import canonical_json
from attestation.endorse import FileEndorser
from attestation.errors import ConfigError, Malformed, Refusal, Undecidable
from attestation.types import Digest

T = TypeVar("T")

COOKIE = "kbs-session-id"
MAX_CONNECTIONS = 256
"""Open connections; with the limit of a body this bounds memory to some 256 MiB."""
BODY_SECONDS = 20
"""How long a body may take to arrive."""

log = logging.getLogger("tacit.broker")

_STATUS = {"resource-unknown": 404, "resource-path": 404, "too-large": 413}
"""Codes whose HTTP status is not that of their kind; KBS clients know 404 and stop at it."""


def open_broker(settings: BrokerSettings, *, clock: Clock) -> KeyBroker:
    """Open store and KEK, load keys and policies; every wrapped key is opened once to prove it.

    A KEK that is down at this moment does not stop the broker: until it is back, guests are told
    to ask again.
    """
    file = settings.file
    kek = settings.kek()
    resources = settings.resources()
    _prove(kek, resources)
    return KeyBroker(
        store=Store.open(settings.store_url),
        policy=settings.policy(),
        resources=resources,
        endorser=FileEndorser(settings.path(file.endorsements)),
        kek=kek,
        token_key=settings.token_key(),
        limits=Limits(file.limits.sessions, timedelta(seconds=file.limits.session_seconds)),
        clock=clock,
        entropy=secrets.token_bytes,
    )


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
    routes = Routes(broker)
    return Starlette(
        routes=[
            Route("/kbs/v0/auth", routes.auth, methods=["POST"]),
            Route("/kbs/v0/attest", routes.attest, methods=["POST"]),
            Route("/kbs/v0/resource/{path:path}", routes.resource, methods=["GET"]),
            Route("/.well-known/jwks.json", routes.jwks, methods=["GET"]),
            Route("/healthz", routes.health, methods=["GET"]),
        ],
        exception_handlers={404: _no_route, 405: _no_route},
    )


class BrokerServer(uvicorn.Server):
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

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM; an address that cannot be had is a `ConfigError`."""
        super().run(sockets or [_listen(self.config.host, self.config.port)])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the wrapped keys into service, listen, and say so."""
        for path in self._broker.resources:
            _adopt(self._broker, path)
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError("broker-listen", f"{host}:{port}: {error.strerror}") from None


class Routes:
    """One method per route: read, ask the broker in a thread, answer."""

    def __init__(self, broker: KeyBroker) -> None:
        self._broker = broker

    async def auth(self, request: Request) -> Response:
        """`POST /kbs/v0/auth`."""

        async def answer() -> Response:
            body = await self._body(request, limit=MAX_AUTH)
            session, challenge = await _in_thread(lambda: self._broker.challenge(body))
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

        return await _answered(answer)

    async def attest(self, request: Request) -> Response:
        """`POST /kbs/v0/attest`."""

        async def answer() -> Response:
            session = request.cookies.get(COOKIE)
            body = await self._body(request, limit=MAX_ATTEST)
            token = await _in_thread(lambda: self._broker.attest(session, body))
            return Response(token, media_type="application/json")

        return await _answered(answer)

    async def resource(self, request: Request) -> Response:
        """`GET /kbs/v0/resource/{repo}/{type}/{tag}`."""

        async def answer() -> Response:
            session = request.cookies.get(COOKIE)
            path = request.path_params["path"]
            sealed = await _in_thread(lambda: self._broker.resource(session, path))
            return Response(sealed, media_type="application/json")

        return await _answered(answer)

    async def jwks(self, _request: Request) -> Response:
        """The key attestation results are signed with."""
        return Response(self._broker.token_key.jwks, media_type="application/json")

    async def health(self, _request: Request) -> Response:
        """Whether the process answers; it says nothing about the store."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def _body(self, request: Request, *, limit: int) -> bytes:
        try:
            with anyio.fail_after(BODY_SECONDS):
                return await _read(request, limit=limit)
        except TimeoutError:
            refusal = Malformed("body-incomplete", f"no body within {BODY_SECONDS} seconds")
        except ClientDisconnect:
            refusal = Malformed("body-incomplete", "the client went away")
        except Malformed as large:
            refusal = large
        act = request.url.path.rsplit("/", 1)[-1]
        await _in_thread(lambda: self._broker.reject(act, refusal))
        raise refusal


async def _read(request: Request, *, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Malformed("too-large", f"a body over {limit} bytes")
    return bytes(body)


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work)


async def _answered(answer: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await answer()
    except Refusal as refusal:
        status = _STATUS.get(refusal.code, refusal.http_status)
        log.warning("refused", extra={"code": refusal.code, "status": status})
        return error_response(status, kind=type(refusal).__name__, code=refusal.code)
    except Exception as error:  # noqa: BLE001 - the one place that may; the text could quote input
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        log.error("bug", extra={"error": type(error).__name__, "place": place})  # noqa: TRY400
        return error_response(500, kind="Internal", code="broker-bug")


def error_response(status: int, *, kind: str, code: str) -> Response:
    """Return KBS's `ErrorInformation`; its detail is our code and nothing of the request."""
    body = ErrorInformation(type=ERROR_TYPE + kind, detail=code)
    response = Response(body.model_dump_json(), status, media_type="application/json")
    if status == 503:
        response.headers["retry-after"] = "5"
    return response


def _no_route(_request: Request, _error: Exception) -> Response:
    return error_response(404, kind="InvalidRequestPath", code="route-unknown")


def _adopt(broker: KeyBroker, path: str) -> None:
    wrapped = broker.resources[path].wrapped
    version = getattr(wrapped, "minimum_version", 1)
    facts = {
        "at": broker.clock().isoformat(timespec="microseconds"),
        "event": "imported",
        "code": "ok",
        "session": None,
        "resource": path,
        "policy": str(broker.resources[path].policy.digest),
        "evidence": None,
        "manifest": getattr(wrapped, "manifest", None),
        "minimum_version": version,
        "simulated": None,
    }
    document = Digest.sha256(canonical_json(wrapped.model_dump(mode="json")))
    entry = Entry.model_validate(facts)
    broker.store.adopt(path, document=document, minimum_version=version, entry=entry)
