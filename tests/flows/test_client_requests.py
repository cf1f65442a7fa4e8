"""What a client of a verified service does not do: follow elsewhere, or send a prompt twice."""

import httpx2
import openai
import pytest
from openai import OpenAI

from attestation.errors import NotAuthentic
from attestation.types import nonce
from server.tls import new_tls_identity
from tests.attested_gateway import CANARY, STARTED, client_of, prompt, report_of
from tests.gateway_kit import keyset
from tests.watched import TlsService, answer

IDENTITY = new_tls_identity(STARTED, ())
CHAT = "POST /v1/chat/completions"
REPORT = "GET /v1/attestation/report"


def verified(then):
    """Return what answers with a good report first, and with `then` to everything else."""

    def answering(request: bytes):
        if not request.startswith(REPORT.encode()):
            return then(request)
        asked = nonce(bytes.fromhex(request.split(b"nonce=")[1][:64].decode()))
        return answer(report_of(keyset(IDENTITY.spki), asked))

    return answering


def sdk(url: str, http: httpx2.Client, **options) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="sk-tacit-x", http_client=http, **options)


@pytest.fixture
def elsewhere():
    """A service that would read everything."""
    with TlsService(new_tls_identity(STARTED, ()), lambda _: answer(b"{}")) as other:
        yield other


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize(
    "status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
def test_a_redirect_to_another_host_is_not_followed(elsewhere, status, scheme):
    location = f"Location: {scheme}://127.0.0.1:{elsewhere.port}/v1/chat/completions"
    with (
        TlsService(IDENTITY, verified(lambda _: answer(b"", status, location))) as service,
        client_of(service.url) as http,
    ):
        client = sdk(service.url, http)
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(**prompt())
        http.follow_redirects = True  # what the SDK's own client does
        with pytest.raises(NotAuthentic, match="other-origin"):
            client.chat.completions.create(**prompt())
        assert service.lines == [REPORT, CHAT, CHAT]
    assert elsewhere.connections == 0


def test_a_client_of_one_service_sends_nothing_to_another(elsewhere):
    with (
        TlsService(IDENTITY, verified(lambda _: answer(b"{}"))) as service,
        client_of(service.url) as http,
    ):
        with pytest.raises(NotAuthentic, match="other-origin"):
            sdk(elsewhere.url, http).chat.completions.create(**prompt())
        with pytest.raises(NotAuthentic, match="other-origin"):
            http.get(service.url.replace("https:", "http:"))
        assert service.lines == [REPORT]
    assert elsewhere.connections == 0


def test_a_host_header_does_not_change_who_is_asked(elsewhere):
    with (
        TlsService(IDENTITY, verified(lambda _: answer(b"{}"))) as service,
        client_of(service.url) as http,
    ):
        http.post(service.url, headers={"Host": f"127.0.0.1:{elsewhere.port}"}, content=CANARY)
        assert len(service.lines) == 2
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "parts",
    [(), (b"HTTP/1.1 2",), (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{",)],
    ids=["no answer", "half a status line", "half a body"],
)
def test_a_prompt_that_was_sent_is_not_sent_again_by_the_transport(parts):
    with (
        TlsService(IDENTITY, verified(lambda _: parts)) as service,
        client_of(service.url) as http,
    ):
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            sdk(service.url, http, max_retries=0).chat.completions.create(**prompt())
        assert service.lines == [REPORT, CHAT]


def test_a_service_on_ipv6_is_verified_and_used():
    try:
        service = TlsService(IDENTITY, verified(lambda _: answer(b"{}")), host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with service, client_of(f"{service.url}/v1") as http:
        assert http.get(f"{service.url}/v1/models").json() == {}
        assert service.lines == [REPORT, "GET /v1/models"]
