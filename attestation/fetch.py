"""Fetch a service's attestation report and the TLS key that delivered it, over one connection."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.codec import MAX_JSON
from attestation.errors import ConfigError, Malformed, Undecidable
from attestation.types import Digest, Nonce
from attestation.x509 import UNREADABLE

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came over one TLS connection; the key is to be compared with the attested one."""

    report: bytes
    certificate_pem: str
    spki: Digest
    """SHA-256 of the peer's SubjectPublicKeyInfo."""


def fetch_report(
    url: str, *, nonce: Nonce, timeout_s: float = 30, server_name: str = ""
) -> Fetched:
    """GET `/v1/attestation/report` of the service at `url`, asking for evidence over `nonce`.

    No certificate authority is consulted: the certificate is not trusted, its key is captured, and
    whoever appraises the report compares that key with the one the quote commits to. Redirects are
    not followed, proxies are not used, at most 4 MiB are read within `timeout_s` of connecting.
    `server_name` is sent as TLS server name instead of the URL's host.
    Raises `Undecidable` `service-unreachable` or `report-unavailable`, `Malformed` `too-large`.
    """
    host, port = _address(url)
    context = _context(server_name)
    connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    try:
        connection.connect()
        certificate = _peer_certificate(connection, deadline=time.monotonic() + timeout_s)
        path = f"/v1/attestation/report?nonce={nonce.hex()}"
        connection.request("GET", path, headers={"Accept": "application/json"})
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                why = f"the service answered {response.status} instead of a report"
                raise Undecidable("report-unavailable", why)
            report = _read(response)
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: IDNA of a host
        kind = type(error).__name__
        raise Undecidable("service-unreachable", f"no report from {host}:{port}: {kind}") from None
    finally:
        connection.close()
    return Fetched(report, ssl.DER_cert_to_PEM_cert(certificate), spki_digest(certificate))


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, 443 if parts.port is None else parts.port
    except ValueError:
        raise ConfigError("service-url", "the service URL has no valid host and port") from None
    if parts.scheme != "https" or host is None or parts.username or parts.query or parts.fragment:
        raise ConfigError("service-url", "the service URL is not https://host[:port]")
    return host, port


class _Named(ssl.SSLContext):
    """A context that sends one server name whatever host is connected to."""

    server_name: str

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        if self.server_name:
            options["server_hostname"] = self.server_name
        return super().wrap_socket(sock, *args, **options)


def _context(server_name: str) -> ssl.SSLContext:
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the attested key decides, not a certificate authority
    context.sslsocket_class = _Bounded
    return context


class _Bounded(ssl.SSLSocket):
    """A socket whose reads all end at one time: headers or a body that trickle gain nothing."""

    deadline: float

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


def _peer_certificate(connection: http.client.HTTPSConnection, *, deadline: float) -> bytes:
    sock = connection.sock
    if not isinstance(sock, _Bounded) or (seen := sock.getpeercert(binary_form=True)) is None:
        raise Undecidable("service-unreachable", "the service presented no certificate")
    sock.deadline = deadline
    return seen


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read the body within the limit of size."""
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        if len(body) > MAX_JSON:
            raise Malformed("too-large", f"report of over {MAX_JSON} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


def spki_digest(certificate_der: bytes) -> Digest:
    """Return SHA-256 of the SubjectPublicKeyInfo of an X.509 certificate (RFC 7469 section 2.4)."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        key = certificate.public_key()
    except UNREADABLE:
        raise Malformed("tls-certificate", "the TLS certificate cannot be read") from None
    return Digest.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
