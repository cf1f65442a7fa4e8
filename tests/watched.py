"""Eyes on the wire: a TCP tap in front of a service, and a TLS service of the test's own making."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator

from server.tls import TlsIdentity, server_context

Answering = Callable[[bytes], Iterable[bytes]]
"""A whole request in, the parts of an answer out; the connection closes after the last."""


class Listening:
    """A loopback port whose every connection is served by a thread of its own."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.done = threading.Event()
        self._listener = socket.create_server((host, 0), family=family, backlog=64)
        self._listener.settimeout(0.05)
        self._threads = [threading.Thread(target=self._accept)]
        self._lock = threading.Lock()
        self.port = self._listener.getsockname()[1]
        self.url = f"https://{f'[{host}]' if ':' in host else host}:{self.port}"

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(20)
        self._listener.close()

    def serve(self, raw: socket.socket) -> None:
        raise AssertionError("a subclass serves")

    def _accept(self) -> None:
        while not self.done.is_set():
            with contextlib.suppress(TimeoutError):
                raw, _ = self._listener.accept()
                thread = threading.Thread(target=self._one, args=(raw,))
                self._threads.append(thread)
                thread.start()

    def _one(self, raw: socket.socket) -> None:
        with raw, contextlib.suppress(OSError, ssl.SSLError):
            raw.settimeout(10)
            self.serve(raw)


class Tap(Listening):
    """Pass bytes on to `target`, a port that may change as when a service restarts; keep them."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = target
        self.sent: list[bytearray] = []
        """What the client sent, one entry a connection."""
        self._lines: list[socket.socket] = []

    def become(self, target: int) -> None:
        """Cut every connection and lead to `target` from now on: the service was replaced."""
        self.target = target
        with self._lock:
            for line in self._lines:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            self._lines.clear()

    def saw(self, text: str) -> bool:
        """Say whether `text` was sent in the clear."""
        with self._lock:
            return any(text.encode() in sent for sent in self.sent)

    def serve(self, raw: socket.socket) -> None:
        with self._lock:
            mine = bytearray()
            self.sent.append(mine)
        with socket.create_connection(("127.0.0.1", self.target), 10) as onward:
            with self._lock:
                self._lines += [raw, onward]
            back = threading.Thread(target=self._pump, args=(onward, raw, bytearray()))
            back.start()
            self._pump(raw, onward, mine)
            back.join(20)

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        source.settimeout(0.05)
        with contextlib.suppress(OSError):
            while not self.done.is_set():
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                kept += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class TlsService(Listening):
    """End TLS with `identity`, answer what `answering` says, keep every decrypted request."""

    def __init__(
        self,
        identity: TlsIdentity,
        answering: Answering,
        *,
        pause: float = 0,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(host)
        self._context = context or server_context(identity)
        self._answering = answering
        self._pause = pause
        self.requests: list[bytes] = []
        self.connections = 0

    @property
    def lines(self) -> list[str]:
        """The request lines that were decrypted, without queries."""
        return [text.split(b" HTTP/")[0].split(b"?")[0].decode() for text in self.requests]

    def serve(self, raw: socket.socket) -> None:
        self.connections += 1
        with self._context.wrap_socket(raw, server_side=True) as connection:
            request = self._read(connection)
            if not request:
                return
            self.requests.append(request)
            for part in self._answering(request):
                connection.sendall(part)
                self.done.wait(self._pause)
            with contextlib.suppress(OSError, ssl.SSLError):
                connection.unwrap()

    def _read(self, connection: ssl.SSLSocket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                return request
            request += data
        head, _, body = request.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-len")]
        missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
        while missing > 0:
            data = connection.recv(65536)
            request += data
            missing -= len(data) or missing
        return request


def onward(port: int) -> Answering:
    """Relay each request to the TLS service at `port`, whoever that is."""

    def relay(request: bytes) -> Iterator[bytes]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        head, _, body = request.partition(b"\r\n\r\n")
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw) as connection,
        ):
            connection.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            with contextlib.suppress(ssl.SSLError):
                while data := connection.recv(65536):
                    yield data

    return relay


def answer(body: bytes, status: str = "200 OK", *headers: str) -> list[bytes]:
    """Return one HTTP response."""
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return ["\r\n".join(lines).encode() + b"\r\n\r\n" + body]
