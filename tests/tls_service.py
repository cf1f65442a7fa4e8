"""A TLS 1.3 service of one connection: a key of its own, an answer of the test's choice."""

import contextlib
import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.types import Digest


def identity(directory: Path) -> tuple[ssl.SSLContext, x509.Certificate, Digest]:
    """Return a server context, its self-signed and expired certificate, its key's digest."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anybody")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return context, certificate, Digest.sha256(spki)


@contextlib.contextmanager
def service(
    context: ssl.SSLContext, answer: Callable[[bytes], Iterable[bytes]], *, pause: float = 0
):
    """Serve one connection: read a request head, send the parts of its answer, close.

    Yields the URL and the list that will hold the head.
    """
    seen: list[bytes] = []
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            raw, _ = listener.accept()
            with context.wrap_socket(raw, server_side=True) as connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(4096)
                seen.append(head)
                for part in answer(head):
                    connection.sendall(part)
                    done.wait(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            done.set()
            thread.join(20)


def answered(body: bytes, status: str = "200 OK") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
