"""Which URLs a client takes for its service, whose key it accepts, how it keeps connections."""

import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

import attestation
from attestation.client import RelyingParty
from attestation.errors import ConfigError, Malformed, NotAuthentic
from attestation.pools import Answer, AsyncAnswer, Pool, Pools
from attestation.tls import pinned_context
from tests.attested_gateway import policy
from tests.tls_service import answered, identity, service

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://service.example", "service.example"),
        ("https://service.example/", "service.example"),
        ("https://service.example/v1", "service.example"),
        ("https://service.example/v1/", "service.example"),
        ("https://SERVICE.Example:443/v1", "service.example"),
        ("HTTPS://service.example:8443", "service.example:8443"),
        ("https://127.0.0.1:8443", "127.0.0.1:8443"),
        ("https://[::1]:8443/v1", "[::1]:8443"),
        ("https://[2001:DB8::1]", "[2001:db8::1]"),
        ("https://bücher.example", "xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_service_has_one_origin_however_its_url_is_spelled(url, origin):
    party = RelyingParty(url, policy())
    assert party.origin == origin
    party.check_origin(httpx2.URL(url))
    party.check_origin(httpx2.URL(f"https://{origin}/v1/chat/completions?x=1"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://LLM.example:8443/v1", "k3f9.llm.example"),
        ("https://127.0.0.1:8443", "k3f9"),
        ("https://[::1]:8443", "k3f9"),
        ("https://bücher.example", "k3f9.xn--bcher-kva.example"),
    ],
)
def test_a_label_is_sent_before_the_host_s_name(url, name):
    request = httpx2.Request("POST", url)
    RelyingParty(url, policy(), affinity="k3f9").admit(request)
    assert request.extensions["sni_hostname"] == name


def test_without_a_label_tls_names_the_host():
    request = httpx2.Request("POST", "https://llm.example")
    RelyingParty("https://llm.example", policy()).admit(request)
    assert "sni_hostname" not in request.extensions


@pytest.mark.parametrize("label", ["a.b", "A", "-a", "a-", "a" * 41, "ä", " ", "a\n"])
def test_a_label_is_a_dns_label(label):
    with pytest.raises(ConfigError, match="affinity"):
        RelyingParty("https://llm.example", policy(), affinity=label)


@pytest.mark.parametrize(
    "url",
    [
        "http://service.example",
        "service.example",
        "service.example:8443",
        "https://",
        "https:///v1",
        "https://user@service.example",
        "https://user:secret@service.example",
        "https://service.example?key=1",
        "https://service.example#x",
        "https://service.example/v2",
        "https://service.example/v1/chat",
        "https://service.example:0",
        "https://service.example:port",
        "https://[::1",
        "wss://service.example",
        "",
    ],
)
def test_a_url_that_is_not_a_service_is_refused_before_anything_is_sent(url):
    with pytest.raises(ConfigError) as refused:
        RelyingParty(url, policy())
    assert refused.value.code == "service-url"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://service.example:8443/v1",
        "https://service.example/v1",
        "https://service.example:8444/v1",
        "https://other.example:8443/v1",
        "https://service.example.:8443/v1",
        "https://service.example@other.example:8443/v1",
        "/v1",
    ],
)
def test_another_scheme_host_or_port_is_another_origin(url):
    party = RelyingParty("https://service.example:8443", policy())
    with pytest.raises(NotAuthentic, match="other-origin"):
        party.check_origin(httpx2.URL(url))


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return [identity(tmp_path_factory.mktemp(name)) for name in ("ours", "theirs")]


def asked(url: str, context: ssl.SSLContext) -> bytes:
    port = httpx2.URL(url).port
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="a name of no matter") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return connection.recv(100)


def pem(certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def test_the_pinned_key_is_accepted_whatever_its_certificate_says_of_names_and_dates(tls):
    (context, certificate, _), _ = tls
    assert certificate.not_valid_after_utc < NOW
    with service(context, lambda _: [answered(b"yes")]) as (url, _):
        assert asked(url, pinned_context(pem(certificate))).startswith(b"HTTP/1.1 200")


def test_another_key_ends_the_handshake_before_a_request_exists(tls):
    (_, certificate, _), (context, _, _) = tls
    with (
        service(context, lambda _: [answered(b"yes")]) as (url, seen),
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        asked(url, pinned_context(pem(certificate)))
    assert seen == []


def test_what_is_not_a_certificate_cannot_be_pinned():
    with pytest.raises(Malformed, match="tls-certificate"):
        pinned_context("no certificate")


def test_a_live_pool_is_lent_until_its_affirmation_ends():
    pools = Pools(Pool("a", LATER))
    pool = pools.lend(NOW, stale=None)
    assert pool is not None
    assert pool.connections == "a"
    assert pools.lend(LATER, stale=None) is None


def test_a_stale_pool_is_not_lent_and_its_successor_is():
    pools = Pools(Pool("a", LATER))
    old = pools.lend(NOW, stale=None)
    assert pools.lend(NOW, stale=old) is None
    new = pools.renew(Pool("b", LATER))
    assert pools.lend(NOW, stale=old) is new


def test_connections_close_when_they_are_old_and_their_last_answer_ended():
    pools = Pools(Pool("a", LATER))
    first, second = pools.lend(NOW, stale=None), pools.lend(NOW, stale=None)
    assert pools.give_back(first) == []
    new = pools.renew(Pool("b", LATER))
    assert pools.all() == ["b", "a"]
    assert pools.give_back(new) == []
    assert pools.give_back(second) == ["a"]
    assert pools.all() == ["b"]


def test_connections_that_idled_when_they_were_replaced_close_with_the_next_answer():
    pools = Pools(Pool("a", LATER))
    assert pools.give_back(pools.renew(Pool("b", LATER))) == ["a"]


def test_an_answer_ends_once():
    ended = []
    answer = Answer(httpx2.ByteStream(b"body"), lambda: ended.append(1))
    assert b"".join(answer) == b"body"
    answer.close()
    answer.close()
    assert ended == [1]


async def test_an_async_answer_ends_once():
    ended = []

    async def end():
        ended.append(1)

    answer = AsyncAnswer(httpx2.ByteStream(b"body"), end)
    assert [part async for part in answer] == [b"body"]
    await answer.aclose()
    await answer.aclose()
    assert ended == [1]


def test_the_names_a_developer_needs_come_from_the_package():
    for name in attestation.__all__:
        assert getattr(attestation, name).__name__ == name
    with pytest.raises(AttributeError):
        attestation.unheard_of  # noqa: B018 - the access is the test


def test_importing_the_package_imports_nothing_that_the_engine_lacks():
    script = (
        "import sys, attestation\n"
        "heavy = {'httpx2', 'anyio', 'pydantic', 'dcap_qvl', 'cryptography', 'yaml'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
