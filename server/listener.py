"""Listeners: an ASGI application on a TLS port; the public one is drained before it closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from attestation.broker.accepting import TlsServer
from server.admission import Admission
from server.certificates import CLIENT_CERTIFICATE
from server.errors import BadRequest
from server.settings import LimitSettings
from server.tls import ClientAuthority, TlsIdentity, server_context

MAX_HEADER_BYTES = 32 * 1024
"""Request line and headers together; the parser itself has no bound."""
MAX_CONNECTIONS = 4096
MAX_HANDSHAKES = 1024
_KEEP_ALIVE_SECONDS = 75
_HEADER_SECONDS = 10
"""Time for the headers of one request, and for the first byte after the handshake."""
_NOTICE_SECONDS = 1
"""How long `/readyz` says no before the port closes, so that load balancers can look."""

log = logging.getLogger("tacit.listener")


@dataclass(frozen=True, slots=True)
class Listening:
    """A port that accepts connections until `ended` is done."""

    port: int
    ended: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes any free port."""

    host: str
    port: int


@contextlib.asynccontextmanager
async def listening(
    app: ASGIApp,
    address: Address,
    *,
    context: ssl.SSLContext,
    connections: int = MAX_CONNECTIONS,
    handshakes: int = MAX_HANDSHAKES,
) -> AsyncIterator[Listening]:
    """Accept connections inside the block; leaving it closes them within a second.

    Of more than `connections` at once, the latest are closed before they can ask; of more than
    `handshakes` under way at once, the oldest.

    Raises `OSError` when the address cannot be bound.
    """
    bound = _bind(address)
    config = uvicorn.Config(
        app,
        http=partial(_Protocol, most=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
        ssl_context_factory=lambda _config, _default: context,
    )
    server = _Server(config, handshakes=handshakes)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    opening = asyncio.ensure_future(server.open.wait())
    try:
        await asyncio.wait({serving, opening}, return_when=asyncio.FIRST_COMPLETED)
        if not server.started:
            raise OSError(0, "the listener did not start")
        yield Listening(bound.getsockname()[1], serving)
    finally:
        opening.cancel()
        server.should_exit = True
        await serving


async def serve(
    app: ASGIApp,
    address: Address,
    *,
    identity: TlsIdentity,
    clients: ClientAuthority | None,
    limits: LimitSettings,
    admission: Admission,
    started: Callable[[int], None],
    stop: asyncio.Event,
    notice_seconds: float = _NOTICE_SECONDS,
) -> None:
    """Listen until `stop` is set, then drain for at most `limits.drain_seconds` and close.

    Between the two, `/readyz` says no for `notice_seconds` while the port is still open.
    `started` is called once with the bound port, when connections are accepted. Raises `OSError`
    when the address cannot be bound.
    """
    async with listening(app, address, context=server_context(identity, clients)) as port:
        started(port.port)
        stopping = asyncio.ensure_future(stop.wait())
        try:
            waits: set[asyncio.Future[Any]] = {port.ended, stopping}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            admission.drain()
            log.info("draining", extra={"in_flight": admission.in_flight})
            await asyncio.sleep(notice_seconds)
            if not await admission.idle(seconds=limits.drain_seconds):
                log.warning("cut", extra={"in_flight": admission.in_flight})
        finally:
            stopping.cancel()


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGTERM or SIGINT; call it inside the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


class _Server(TlsServer):
    """A server whose process owns its signals: uvicorn's raises them again after shutdown."""

    def __init__(self, config: uvicorn.Config, *, handshakes: int) -> None:
        # no bound for a source: behind a balancer every client has one address
        super().__init__(config, handshakes=handshakes, per_source=None)
        self.open = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.open.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Bounds that uvicorn leaves open: connections, header bytes, and the time headers take."""

    def __init__(self, *args: Any, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = most
        # a logging set-up elsewhere in the process could switch uvicorn's access log on again
        self.access_log = False
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._client_certificate: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        self._client_certificate = None if tls is None else tls.getpeercert(binary_form=True)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[CLIENT_CERTIFICATE] = self._client_certificate
        self._header_bytes = 0
        self._start_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        del msg
        body = BadRequest("http-malformed").body()
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n"
        )
        self.transport.write(head % len(body) + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            self.transport.abort()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(_HEADER_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(1024)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
