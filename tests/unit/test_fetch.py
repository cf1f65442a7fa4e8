"""A report is fetched with the key that delivered it, within limits of size and time."""

import contextlib
import datetime as dt
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import ConfigError, Malformed, Undecidable
from attestation.fetch import fetch_report, spki_digest
from attestation.types import Digest, nonce

NONCE = nonce(bytes(range(32)))


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Return a server context, its certificate and the digest of its key."""
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
        .not_valid_after(start + dt.timedelta(days=1))  # expired: nobody's clock vouches for it
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
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
def service(context: ssl.SSLContext, *answer: bytes, pause: float = 0):
    """Serve one connection: read a request head, send the parts of `answer`, close."""
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
                for part in answer:
                    connection.sendall(part)
                    done.wait(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            done.set()
            thread.join(10)


def answered(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_report_comes_with_the_key_that_delivered_it(tls):
    context, certificate, spki = tls
    with service(context, answered(b"{}")) as (url, seen):
        fetched = fetch_report(url, nonce=NONCE, timeout_s=10)
    assert fetched.report == b"{}"
    assert fetched.spki == spki
    assert x509.load_pem_x509_certificate(fetched.certificate_pem.encode()) == certificate
    line = seen[0].split(b"\r\n")[0].decode()
    assert line == f"GET /v1/attestation/report?nonce={NONCE.hex()} HTTP/1.1"


def test_a_path_on_the_url_does_not_change_what_is_asked(tls):
    with service(tls[0], answered(b"{}")) as (url, seen):
        fetch_report(f"{url}/v1", nonce=NONCE, timeout_s=10)
    assert seen[0].startswith(b"GET /v1/attestation/report?nonce=")


@pytest.mark.parametrize("status", ["404 Not Found", "302 Found", "503 Busy", "204 None"])
def test_anything_but_a_report_cannot_be_decided(tls, status):
    with (
        service(tls[0], answered(b"", status)) as (url, _),
        pytest.raises(Undecidable, match="report-unavailable"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=10)


def test_a_report_over_the_limit_is_not_read_to_its_end(tls):
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with (
        service(tls[0], head, *[bytes(1024 * 1024)] * 6) as (url, _),
        pytest.raises(Malformed, match="too-large"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=10)


def test_a_report_cut_short_cannot_be_decided(tls):
    with (
        service(tls[0], b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}") as (url, _),
        pytest.raises(Undecidable, match="service-unreachable"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=10)


def test_a_trickle_of_bytes_does_not_hold_the_caller(tls):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with (
        service(tls[0], head, *[b" "] * 100, pause=0.05) as (url, _),
        pytest.raises(Undecidable, match="service-unreachable"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=0.5)


def test_what_does_not_speak_http_cannot_be_decided(tls):
    with (
        service(tls[0], b"SSH-2.0-x\r\n") as (url, _),
        pytest.raises(Undecidable, match="service-unreachable"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=10)


def test_an_old_version_of_tls_is_refused(tls):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        service(context) as (url, _),
        pytest.raises(Undecidable, match="service-unreachable"),
    ):
        fetch_report(url, nonce=NONCE, timeout_s=10)


def test_nobody_listening_cannot_be_decided():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Undecidable, match="service-unreachable"):
        fetch_report(f"https://127.0.0.1:{port}", nonce=NONCE, timeout_s=10)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "127.0.0.1:1",
        "https://",
        "https://user@127.0.0.1:1",
        "https://127.0.0.1:1/?x=1",
        "https://127.0.0.1:1/#x",
        "https://127.0.0.1:notaport",
        "https://[::1",
    ],
)
def test_a_url_is_https_host_and_port(url):
    with pytest.raises(ConfigError, match="service-url"):
        fetch_report(url, nonce=NONCE, timeout_s=1)


def test_bytes_that_are_no_certificate_are_malformed():
    with pytest.raises(Malformed, match="tls-certificate"):
        spki_digest(b"no certificate")
