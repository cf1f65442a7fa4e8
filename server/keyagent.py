"""The key agent: one model's data key out to the ranks of one engine, each once, while it loads.

Rules. The peer runs as this user and descends from the supervised process (SO_PEERCRED, `/proc`).
It must want this model. No more processes than ranks get the key, and none gets it twice. The
window opens with the engine and closes for good when it answers; then the key is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from attestation.errors import Malformed
from attestation.keywire import MAX_LINE, Ask, Grant, Noted, Refused, decode_question, encode
from server.engine.leftovers import remove_socket

_LINE_SECONDS = 10
_BACKLOG = 64
_MOST_GENERATIONS = 64
"""Depth of the process tree below the supervised process, at most."""
_PARENT = re.compile(r"\) \S (\d+) ")

log = logging.getLogger("tacit.keyagent")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says; ids as this process sees them."""

    pid: int
    uid: int


@dataclass(slots=True)
class Window:
    """What one engine may still be given. `ask` decides and notes; it reads nothing itself."""

    model: str
    ranks: int
    grant: Grant | None
    root: int
    """The supervised process."""
    given: frozenset[int] = frozenset()
    """Processes that have the key."""

    def ask(self, peer: Peer, model: str) -> Grant | Refused:
        """Return the grant for a peer that is part of the engine, or why not."""
        if self.grant is None:
            return Refused("key-window")
        if model != self.model:
            return Refused("key-model")
        if peer.pid in self.given or len(self.given) >= self.ranks:
            return Refused("key-spent")
        self.given |= {peer.pid}
        return self.grant


class KeyAgent:
    """Answers on the Unix socket at `path` for as long as it is entered."""

    def __init__(self, path: Path, *, model: str, grant: Grant, ranks: int) -> None:
        self._path = path
        self._window = Window(model, ranks, grant, root=0)
        self._listening: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._refusal: str | None = None

    @property
    def given(self) -> frozenset[int]:
        """The processes that were given the key."""
        return self._window.given

    def refusal(self) -> str | None:
        """Return the code with which the engine first refused to load, if it did."""
        return self._refusal

    async def __aenter__(self) -> Self:
        """Bind the socket, mode 0600. Nobody is answered before `open`."""
        remove_socket(self._path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o177)
            try:
                listening.bind(str(self._path))
            finally:
                os.umask(before)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
        self._listening = listening
        self._serving = asyncio.create_task(self._serve(listening))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        tasks = [task for task in (self._serving, *self._answering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        remove_socket(self._path)

    def open(self, root: int) -> None:
        """Answer the descendants of process `root` from now on."""
        if self._window.root:
            raise RuntimeError("a key agent serves one engine")
        self._window.root = root

    def close(self) -> None:
        """Hand out nothing any more and drop the key. Python cannot overwrite its bytes."""
        if self._window.grant is not None:
            self._window.grant = None
            log.info("key window closed", extra={"count": len(self.given)})

    async def _serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listening)
            task = asyncio.create_task(self._answer(connection))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(TimeoutError, ConnectionError):
            connection.setblocking(False)
            peer = _peer(connection)
            async with asyncio.timeout(_LINE_SECONDS):
                answer = self._decide(peer, await _line(connection))
                await asyncio.get_running_loop().sock_sendall(connection, encode(answer))

    def _decide(self, peer: Peer, line: bytes) -> Grant | Refused | Noted:
        if not descends(peer, self._window.root, parent_of=_parent_of):
            log.warning("key refused", extra={"code": "key-peer", "pid": peer.pid})
            return Refused("key-peer")
        try:
            question = decode_question(line)
        except Malformed as error:
            log.warning("key refused", extra={"code": error.code, "pid": peer.pid})
            return Refused(error.code)
        if isinstance(question, Refused):
            return self._note(peer, question)
        return self._ask(peer, question)

    def _note(self, peer: Peer, report: Refused) -> Noted:
        self._refusal = self._refusal or report.code
        log.error("engine refused to load", extra={"code": report.code, "pid": peer.pid})
        return Noted()

    def _ask(self, peer: Peer, question: Ask) -> Grant | Refused:
        answer = self._window.ask(peer, question.model)
        if isinstance(answer, Refused):
            log.warning("key refused", extra={"code": answer.code, "pid": peer.pid})
        else:
            log.info("key given", extra={"pid": peer.pid, "count": len(self.given)})
        return answer


def descends(peer: Peer, root: int, *, parent_of: Callable[[int], int | None]) -> bool:
    """Tell whether `peer` is a process of this user below `root`; not knowing means no."""
    if peer.uid != os.geteuid() or root <= 1:
        return False
    pid: int | None = peer.pid
    for _ in range(_MOST_GENERATIONS):
        pid = parent_of(pid) if pid else None
        if not pid:
            return False
        if pid == root:
            return True
    return False


def _parent_of(pid: int) -> int | None:
    try:
        # the command may hold anything, so it is skipped up to its last parenthesis
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    found = _PARENT.match(text, text.rindex(")"))
    return int(found[1]) if found else None


def _peer(connection: socket.socket) -> Peer:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", packed)
    return Peer(pid, uid)


async def _line(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < MAX_LINE and not data.endswith(b"\n"):
        part = await loop.sock_recv(connection, MAX_LINE - len(data))
        if not part:
            break
        data += part
    return data
