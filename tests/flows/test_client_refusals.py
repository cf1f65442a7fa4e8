"""A client refuses services that do not verify, and no byte of a prompt reaches them.

Every bad service is met twice: by a client that is being made, and by one that has verified a good
service at the same address before. What was sent is watched on the wire and, where the bad service
can decrypt, behind its TLS.
"""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import httpx2
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from openai import AsyncOpenAI, OpenAI

from attestation import attested_client
from attestation.errors import (
    ConfigError,
    Malformed,
    NotAffirmed,
    NotAuthentic,
    Refusal,
    Undecidable,
)
from attestation.policy import Policy
from attestation.policy_signature import sign_policy
from attestation.types import Digest, nonce
from server.tls import TlsIdentity, new_tls_identity
from tests.attested_gateway import (
    CANARY,
    STARTED,
    async_client_of,
    client_of,
    policy,
    policy_text,
    prompt,
    report_of,
    service,
)
from tests.gateway_kit import keyset, running
from tests.watched import Answering, Tap, TlsService, answer, onward

OTHER = Digest.sha256(b"other")
REPORT = "GET /v1/attestation/report"


@pytest.fixture(scope="module")
def gateway():
    with running(service()) as started:
        yield started


@pytest.fixture(scope="module")
def identity() -> TlsIdentity:
    """The key of whoever is not to be trusted."""
    return new_tls_identity(STARTED, ())


@dataclass(frozen=True)
class Bad:
    """A service that must be refused, and how."""

    kind: type[Refusal]
    code: str
    answering: Callable[[TlsIdentity, int], Answering]
    """Of its identity and the port of a good service."""
    pause: float = 0


def saying(*parts: bytes) -> Callable[[TlsIdentity, int], Answering]:
    return lambda _identity, _port: lambda _request: parts


def asked_nonce(request: bytes) -> bytes:
    found = re.match(rb"GET /v1/attestation/report\?nonce=([0-9a-f]{64}) ", request)
    assert found is not None
    return bytes.fromhex(found[1].decode())


def reporting(**evidence) -> Callable[[TlsIdentity, int], Answering]:
    """Report the TD that really ends this TLS, started or stapled as `evidence` says."""
    stated = evidence.pop("stated", {})

    def of(identity: TlsIdentity, _port: int) -> Answering:
        keys = keyset(identity.spki).model_copy(update=stated)
        return lambda request: answer(report_of(keys, nonce(asked_nonce(request)), **evidence))

    return of


def replaying(identity: TlsIdentity, _port: int) -> Answering:
    kept = report_of(keyset(identity.spki), nonce(bytes(32)))
    return lambda _: answer(kept)


def replaying_under_our_nonce(identity: TlsIdentity, _port: int) -> Answering:
    kept = report_of(keyset(identity.spki), nonce(bytes(32)))
    return lambda request: answer(
        kept.replace(bytes(32).hex().encode(), asked_nonce(request).hex().encode())
    )


def another_guests(_identity: TlsIdentity, port: int) -> Answering:
    """Relay to the genuine service: its report verifies, but this TLS is ours to read."""
    return onward(port)


def another_guests_with_our_key(identity: TlsIdentity, port: int) -> Answering:
    """Relay, with the key of the keyset replaced by the one that ends this TLS."""
    ours, relay = str(identity.spki).encode(), onward(port)

    def altered(request: bytes):
        yield re.sub(
            rb'("tls_spki":")sha256:[0-9a-f]{64}', rb"\g<1>" + ours, b"".join(relay(request))
        )

    return altered


MODEL_OTHER = {"models": (keyset(OTHER).models[0].model_copy(update={"manifest": str(OTHER)}),)}
TRICKLE = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90

BAD = {
    "a relay that ends TLS itself": Bad(NotAuthentic, "tls-key-mismatch", another_guests),
    "a relay that names its key": Bad(
        NotAuthentic, "binding-mismatch", another_guests_with_our_key
    ),
    "no such route": Bad(Undecidable, "report-unavailable", saying(*answer(b"", "404 Not Found"))),
    "broken": Bad(Undecidable, "report-unavailable", saying(*answer(b"", "500 Oops"))),
    "a redirect": Bad(
        Undecidable,
        "report-unavailable",
        lambda _, port: lambda _: answer(b"", "302 Found", f"Location: https://127.0.0.1:{port}/"),
    ),
    "not JSON": Bad(Malformed, "json-malformed", saying(*answer(b"\x00garbage"))),
    "JSON of another kind": Bad(Malformed, "field-invalid", saying(*answer(b'{"ok":true}'))),
    "oversize": Bad(Malformed, "too-large", saying(*answer(bytes(5 * 1024 * 1024)))),
    "not HTTP": Bad(Undecidable, "service-unreachable", saying(b"SSH-2.0-x\r\n")),
    "closes": Bad(Undecidable, "service-unreachable", saying()),
    "headers that trickle": Bad(
        Undecidable, "service-unreachable", saying(*(bytes([b]) for b in TRICKLE)), pause=0.02
    ),
    "a replayed report": Bad(NotAuthentic, "nonce-mismatch", replaying),
    "a replay under our nonce": Bad(NotAuthentic, "binding-mismatch", replaying_under_our_nonce),
    "other firmware": Bad(NotAffirmed, "tdx.mrtd", reporting(measurements={"mrtd": b"\1" * 48})),
    "other kernel": Bad(
        NotAuthentic, "eventlog-mismatch", reporting(measurements={"rtmr1": b"\1" * 48})
    ),
    "another configuration": Bad(
        NotAffirmed, "runtime.config", reporting(stated={"config": str(OTHER)})
    ),
    "another model": Bad(NotAffirmed, "runtime.model", reporting(stated=MODEL_OTHER)),
    "a debug guest": Bad(NotAffirmed, "tdx-debug", reporting(debug=True)),
    "no collateral": Bad(Undecidable, "endorsements-missing", reporting(staple=False)),
    "expired collateral": Bad(
        Undecidable, "crl-expired", reporting(stapled_at=STARTED - timedelta(days=60))
    ),
}


def nothing_reached(bad: TlsService, tap: Tap) -> None:
    """Assert that the bad service decrypted requests for a report, if any, and nothing else."""
    assert set(bad.lines) == {REPORT}
    assert not any(CANARY.encode() in request or b"sk-" in request for request in bad.requests)
    assert not tap.saw(CANARY)


def sdk(url: str, http: httpx2.Client, **options) -> OpenAI:
    options = {"max_retries": 0, **options}
    return OpenAI(base_url=f"{url}/v1", api_key="sk-tacit-x", http_client=http, **options)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_no_client_is_made_for(bad, gateway, identity):
    with (
        TlsService(identity, bad.answering(identity, gateway.port), pause=bad.pause) as bad_service,
        Tap(bad_service.port) as tap,
    ):
        with pytest.raises(bad.kind) as refused:
            client_of(tap.url, timeout_s=1 if bad.pause else 10)
        assert refused.value.code == bad.code
        nothing_reached(bad_service, tap)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_client_sends_no_prompt_when_its_service_was_replaced_by(bad, gateway, identity):
    with (
        TlsService(identity, bad.answering(identity, gateway.port), pause=bad.pause) as bad_service,
        Tap(gateway.port) as tap,
        client_of(tap.url, timeout_s=1 if bad.pause else 10) as http,
    ):
        tap.become(bad_service.port)
        with pytest.raises(openai.APIConnectionError) as failed:
            sdk(tap.url, http).chat.completions.create(**prompt())
        cause = failed.value.__cause__
        assert isinstance(cause, bad.kind)
        assert isinstance(cause, httpx2.ConnectError)
        assert cause.code == bad.code
        assert cause.next_step
        nothing_reached(bad_service, tap)


async def test_an_async_client_sends_no_prompt_to_an_impostor(gateway, identity):
    with TlsService(identity, onward(gateway.port)) as relay, Tap(gateway.port) as tap:
        async with async_client_of(tap.url) as http:
            client = AsyncOpenAI(
                base_url=f"{tap.url}/v1", api_key="sk-tacit-x", http_client=http, max_retries=0
            )
            tap.become(relay.port)
            for stream in (False, True):
                with pytest.raises(openai.APIConnectionError) as failed:
                    await client.chat.completions.create(**prompt(stream=stream))
                assert isinstance(failed.value.__cause__, NotAuthentic)
        nothing_reached(relay, tap)


def test_the_retries_of_the_sdk_ask_for_evidence_again_and_send_nothing(gateway, identity):
    with (
        TlsService(identity, onward(gateway.port)) as relay,
        Tap(gateway.port) as tap,
        client_of(tap.url) as http,
    ):
        tap.become(relay.port)
        with pytest.raises(openai.APIConnectionError):
            sdk(tap.url, http, max_retries=1).chat.completions.create(**prompt(stream=True))
        assert relay.lines == [REPORT] * 2
        nothing_reached(relay, tap)


def test_simulated_evidence_is_refused_under_intels_root(gateway):
    text = re.sub(
        rb"profile: simulated\nroot:\n  simulated: \|\n(    .*\n)+",
        b"profile: production\nroot: intel\n",
        policy_text(),
    )
    key = Ed25519PrivateKey.generate()
    genuine = Policy.load_signed(
        sign_policy(text, number=1, signer=key), signer=key.public_key(), name="production"
    )
    with Tap(gateway.port) as tap:
        with pytest.raises(NotAuthentic, match="tdx-chain"):
            attested_client(tap.url, genuine)
        assert not tap.saw(CANARY)


def test_an_old_version_of_tls_is_refused(identity, tmp_path):
    pem = tmp_path / "identity.pem"
    pem.write_bytes(identity.certificate + identity.key.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    good = reporting()(identity, 0)
    with TlsService(identity, good, context=context) as old:
        with pytest.raises(Undecidable, match="service-unreachable"):
            client_of(old.url)
        assert (old.connections, old.requests) == (1, [])


@pytest.mark.parametrize("path", ["http://127.0.0.1:{}", "http://127.0.0.1:{}/v1"])
def test_a_service_in_plaintext_is_never_spoken_to(gateway, path):
    with Tap(gateway.port) as tap:
        with pytest.raises(ConfigError, match="service-url"):
            attested_client(path.format(tap.port), policy())
        assert tap.sent == []
