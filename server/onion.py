"""The layers around the routes, as plain ASGI: errors, audit, intake, authentication.

Each layer is a dataclass that holds the next one. The order is written down in `server.app`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import exchange
from server.audit import AuditEvent, AuditSink
from server.auth import Keys
from server.disconnect import ClientGone
from server.errors import Bug, Rejected, TooLarge, TooSlow, Unavailable
from server.exchange import Exchange
from server.logins import ClientLogins
from server.quota import Quotas
from server.ready import Clock

GONE = 499
"""Status in the audit record when the client hung up (nginx's number; never on the wire)."""

log = logging.getLogger("tacit.api")


@dataclass(frozen=True, slots=True)
class Errors:
    """Outermost: give every request an id and every failure a body chosen from our table."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; websockets are closed, anything else is not ours."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        seen = Exchange(request_id=f"req_{secrets.token_hex(16)}")
        exchange.attach(scope, seen)  # type: ignore[arg-type]
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *_stamp(seen)]
            await send(message)

        refusal: Rejected = Bug("internal")
        try:
            await self.app(scope, receive, stamped)
        except ClientGone:
            return
        except Rejected as rejected:
            refusal = rejected
        except Exception as error:  # noqa: BLE001 - the text of a bug may quote content
            log.error("bug", extra={"request": seen.request_id, "place": _place(error)})  # noqa: TRY400
        else:
            return
        if started:
            # uvicorn ends a response that was not completed by closing the connection
            log.warning("cut", extra={"request": seen.request_id, "code": refusal.code})
            return
        log.info("rejected", extra={"request": seen.request_id, "code": refusal.code})
        await respond(stamped, refusal.status, refusal.body(), headers=_error_headers(refusal))


@dataclass(frozen=True, slots=True)
class Audit:
    """Record each request before its last byte leaves, so no answer is whole without a record."""

    app: ASGIApp
    sink: AuditSink
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner layers; a record that cannot be written fails the request."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        seen = exchange.of(scope)
        note = _Note(seen, begun)

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                # kept back: if the record of a short answer fails, an error can still be sent
                note.start = message
                return
            if note.first is None:
                note.first = loop.time()
            if not message.get("more_body", False):
                await self._record(note, loop.time())
            if note.start is not None:
                start, note.start = note.start, None
                note.status = start["status"]
                await send(start)
            await send(message)

        try:
            await self.app(scope, receive, recorded)
        except Exception as error:
            note.settle(error)
            await self._record(note, loop.time())
            raise
        except asyncio.CancelledError:
            note.settle(ClientGone())
            await self._record(note, loop.time())
            raise

    async def _record(self, note: _Note, ended: float) -> None:
        if note.recorded:
            return
        note.recorded = True
        seen = note.exchange
        event = AuditEvent(
            time=self.clock(),
            request=seen.request_id,
            tenant=seen.tenant,
            key=seen.key_id,
            operator=seen.operator,
            route=seen.route,
            model=seen.model,
            stream=seen.stream,
            status=note.start["status"] if note.start is not None else note.status,
            code=seen.code,
            input_tokens=seen.input_tokens,
            output_tokens=seen.output_tokens,
            first_byte_ms=None if note.first is None else round(1000 * (note.first - note.begun)),
            duration_ms=round(1000 * (ended - note.begun)),
        )
        try:
            await self.sink.record(event)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the request fails
            log.error("audit", extra={"request": seen.request_id, "place": _place(error)})  # noqa: TRY400
            seen.code = "audit-unavailable"
            raise Unavailable("audit-unavailable", retry_after=5) from None


@dataclass(slots=True)
class _Note:
    exchange: Exchange
    begun: float
    first: float | None = None
    start: Message | None = None
    status: int = 0
    recorded: bool = field(default=False)

    def settle(self, error: BaseException) -> None:
        """Note what a request that raised ended with."""
        self.start = None
        if isinstance(error, ClientGone):
            self.status, self.exchange.code = GONE, "client-gone"
        elif isinstance(error, Rejected):
            self.status, self.exchange.code = error.status, error.code
        else:
            self.status, self.exchange.code = Bug.status, "internal"


@dataclass(frozen=True, slots=True)
class Intake:
    """Bound a request body in bytes and in time, however slowly it trickles in."""

    app: ASGIApp
    body_bytes: int
    read_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner layers with a `receive` that keeps count."""
        seen = exchange.of(scope)
        deadline = asyncio.get_running_loop().time() + self.read_seconds
        declared = _content_length(scope)
        taken = 0
        seen.body_read = not _has_body(scope)

        async def bounded() -> Message:
            nonlocal taken
            if seen.body_read:
                return await receive()
            if declared > self.body_bytes:
                raise TooLarge("body-too-large")
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise TooSlow("body-too-slow") from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self.body_bytes:
                    raise TooLarge("body-too-large")
                seen.body_read = not message.get("more_body", False)
            return message

        await self.app(scope, bounded, send)


@dataclass(frozen=True, slots=True)
class Authentication:
    """Ask who calls on every path that is not open; a new route is closed by default."""

    app: ASGIApp
    keys: Keys
    logins: ClientLogins
    clock: Clock
    open: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the caller, or raise `Unauthenticated`."""
        if scope["path"] not in self.open:
            caller = self.logins.caller(scope, keys=self.keys, now=self.clock())
            seen = exchange.of(scope)
            seen.tenant, seen.key_id = caller.tenant, caller.key_id
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Quota:
    """Hold the tenant's place while a request runs, and settle what it cost.

    Both end before the last byte leaves: a client that has its answer may ask the next at once.
    """

    app: ASGIApp
    quotas: Quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner layers, which reserve tokens before they spend any."""
        seen = exchange.of(scope)
        if seen.tenant is None:  # an open path, which costs nothing
            await self.app(scope, receive, send)
            return
        allowance = seen.allowance = self.quotas.allowance(seen.tenant)
        used: int | None = None

        def settle() -> None:
            known = seen.input_tokens is not None
            allowance.settle(
                (seen.input_tokens or 0) + (seen.output_tokens or 0) if known else used
            )

        with ExitStack() as held:
            held.enter_context(allowance.place())
            held.callback(settle)

            async def ending(message: Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    held.close()
                await send(message)

            try:
                await self.app(scope, receive, ending)
            except Rejected as refusal:
                if refusal.status < 500:
                    used = 0  # the engine took no part, or refused
                raise


async def respond(
    send: Send,
    status: int,
    body: bytes,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    media: bytes = b"application/json",
) -> None:
    """Send one complete answer."""
    length = str(len(body)).encode()
    fixed = [(b"content-type", media), (b"content-length", length)]
    start = {"type": "http.response.start", "status": status, "headers": [*fixed, *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _stamp(seen: Exchange) -> list[tuple[bytes, bytes]]:
    stamp = [
        (b"x-request-id", seen.request_id.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if seen.allowance is not None:
        stamp += seen.allowance.headers()
    if not seen.body_read:
        # the rest of a body nobody wants must not be waited for
        stamp.append((b"connection", b"close"))
    return stamp


def _error_headers(refusal: Rejected) -> tuple[tuple[bytes, bytes], ...]:
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if refusal.retry_after is not None:
        headers += ((b"retry-after", str(refusal.retry_after).encode()),)
    if refusal.status == 401:
        headers += ((b"www-authenticate", b"Bearer"),)
    if refusal.allow is not None:
        headers += ((b"allow", refusal.allow.encode()),)
    return headers


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


def _has_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or _content_length(scope) > 0


def _place(error: BaseException) -> str:
    frames: Any = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}"
