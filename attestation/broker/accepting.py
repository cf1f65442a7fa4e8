"""Accept the connections of a listener: no more than so many TLS handshakes at once.

uvicorn and asyncio count a connection once its handshake is done, and wait a minute for that.
Whoever never finishes one would hold a descriptor for nothing; here the oldest makes room.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

import uvicorn

from attestation.broker.rate import source

HANDSHAKE_SECONDS = 10
MAX_HANDSHAKES = 256
PER_SOURCE = 32
"""Handshakes at once of one source (`attestation.broker.rate.source`) of a broker, whose clients
are guests."""
_PAUSE_SECONDS = 1
"""How long nobody is accepted after the process ran out of descriptors."""

log = logging.getLogger("tacit.accepting")


class Accepting:
    """Accepts from a listening socket until it is closed, as the `asyncio.Server` of uvicorn."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        context: ssl.SSLContext,
        most: int,
        per_source: int | None,
    ) -> None:
        self.sockets = (listening,)
        self._protocol = protocol
        self._context = context
        self._most, self._per_source = most, per_source
        self._handshakes: dict[asyncio.Task[None], str] = {}  # oldest first
        self._accepting = asyncio.ensure_future(self._accept(listening))

    def close(self) -> None:
        """Accept no more, and cut the handshakes that are under way."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Return when every socket of a cut handshake is closed."""
        await asyncio.wait({self._accepting, *self._handshakes})

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError:
                    log.warning("accept failed", extra={"handshakes": len(self._handshakes)})
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                self._begin(connection, source(address[0]))
                await asyncio.sleep(0)  # a task that was cut before it began would close nothing

    def _begin(self, connection: socket.socket, peer: str) -> None:
        begun = sum(each == peer for each in self._handshakes.values())
        if self._per_source is not None and begun >= self._per_source:
            connection.close()
            return
        if len(self._handshakes) >= self._most:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        task = asyncio.ensure_future(self._shake_hands(connection))
        self._handshakes[task] = peer
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError:  # ssl.SSLError and a handshake that took too long among them
            connection.close()


class TlsServer(uvicorn.Server):
    """uvicorn on sockets that somebody bound, over TLS, accepting as said above.

    Of more than `handshakes` at once the oldest is cut; of one source, the newest is refused where
    there are more than `per_source`, unless that is None.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        handshakes: int = MAX_HANDSHAKES,
        per_source: int | None = PER_SOURCE,
    ) -> None:
        super().__init__(config)
        self._handshakes, self._per_source = handshakes, per_source

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on `sockets`."""
        config = self.config
        if config.ssl is None:
            raise TypeError("served over TLS only")
        bound = sockets or ()
        for listening in bound:
            listening.setblocking(False)
            listening.listen(config.backlog)
        self.servers = [
            Accepting(  # type: ignore[misc]
                listening,
                self._connection,
                context=config.ssl,
                most=self._handshakes,
                per_source=self._per_source,
            )
            for listening in bound
        ]
        self.started = True

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
