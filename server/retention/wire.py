"""Bytes that no HTTP client sends: no TLS, no HTTP, and half of a request; what came back out."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from server.retention.canary import Canaries
from server.retention.senders import CUT, Answered
from server.retention.vectors import CHAT, Sent

_SECONDS = 10
_TOO_SLOW = range(408, 409)


@dataclass(frozen=True, slots=True)
class Wire:
    """Connections to one attested service, below HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext
    """Completes a handshake with the attested key only."""
    api_key: str

    def babble(self, canaries: Canaries) -> bytes:
        """Send what is no TLS, and inside of TLS what is no HTTP; return all answers."""
        said = b""
        with contextlib.suppress(OSError), self._plain() as plain:
            plain.sendall(f"GET /{canaries.at('no TLS')} HTTP/1.1\r\n\r\n".encode())
            said += _drain(plain)
        name = f"{canaries.at('server name')}.invalid"
        for line in (canaries.at("no HTTP"), f"GET / HTTP/{canaries.at('no version')}"):
            with contextlib.suppress(OSError), self._secure(name) as secure:
                secure.sendall(f"{line}\r\n\r\n".encode())
                said += _drain(secure)
        return said

    def stall(self, canaries: Canaries, *, patience: float) -> Answered:
        """Send half a body and wait up to `patience` seconds for the service to give up."""
        half = f'{{"messages": "{canaries.at("stalled")}'.encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {2 * len(half)}\r\n"
            "Connection: close\r\n\r\n"
        )
        sent = Sent("stalled", half, CHAT, statuses=_TOO_SLOW)
        answer = b""
        with contextlib.suppress(OSError), self._secure(self.host) as secure:
            secure.sendall(head.encode() + half)
            answer = _drain(secure, seconds=patience)
        top, _, body = answer.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else CUT
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return Answered(sent, status, "\r\n".join(lines), body, fields.get("x-request-id", ""))

    @contextlib.contextmanager
    def _plain(self) -> Iterator[socket.socket]:
        with socket.create_connection((self.host, self.port), _SECONDS) as plain:
            yield plain

    @contextlib.contextmanager
    def _secure(self, name: str) -> Iterator[ssl.SSLSocket]:
        with self._plain() as plain, self.tls.wrap_socket(plain, server_hostname=name) as secure:
            yield secure


def _drain(connection: socket.socket, *, seconds: float = _SECONDS) -> bytes:
    """Read until the other side closes, or says nothing for `seconds`."""
    connection.settimeout(seconds)
    said = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(4096):
            said += data
    return said
