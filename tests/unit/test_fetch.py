"""A report is fetched with the key that delivered it, within limits of size and time."""

import socket
import ssl

import pytest
from cryptography import x509

from attestation.errors import ConfigError, Malformed, Undecidable
from attestation.fetch import fetch_report, spki_digest
from attestation.types import nonce
from tests.tls_service import answered, identity
from tests.tls_service import service as serving

NONCE = nonce(bytes(range(32)))


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return identity(tmp_path_factory.mktemp("tls"))


def service(context, *answer: bytes, pause: float = 0):
    return serving(context, lambda _: answer, pause=pause)


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


def test_a_host_that_cannot_be_a_name_cannot_be_reached():
    with pytest.raises(Undecidable, match="service-unreachable"):
        fetch_report(f"https://{'a' * 70}.example", nonce=NONCE, timeout_s=1)


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
