"""The operator listener over real TLS: who gets in, to what, and that the record says so."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import OctKey, RSAKey

from attestation.codec import parse_yaml
from attestation.errors import ConfigError
from attestation.types import Digest
from server.access import OperatorCertificates, OperatorTokens
from server.app import operator_table
from server.listener import Address, listening
from server.operate import operator_listening, operator_login
from server.operator import create_operator_app, identify_by
from server.settings import Settings, SettingsFile
from server.tls import ClientAuthority, server_context
from tests.gateway_kit import counted, prepared
from tests.logins import AUDIENCE, ISSUER, Authority, Provider, with_certificate

NOW = datetime.now(UTC)
STATUS, METRICS = "/v1/admin/status", "/metrics"


@contextlib.asynccontextmanager
async def operated(login, trusted, *, clock=lambda: NOW):
    gateway = prepared()
    gateway.ready = replace(gateway.ready, clock=clock)
    table = operator_table(gateway.ready, counted(gateway))
    app = create_operator_app(gateway.ready, identify_by(login, trusted), table=table)
    mutual = ClientAuthority(trusted, required=True) if login.kind == "mtls" else None
    context = server_context(gateway.identity, mutual)
    async with listening(app, Address("127.0.0.1", 0), context=context) as opened:
        gateway.port = opened.port
        yield gateway


async def ask(gateway, path, *, file=None, token=None, method="GET"):
    context = with_certificate(gateway.trust(), file)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=gateway.url, verify=context, headers=headers) as http:
        answer = await http.request(method, path)
    code = answer.json()["error"]["code"] if answer.status_code >= 400 else None
    return answer.status_code, code


def by_certificate(**people):
    named = {name: tuple(roles) for name, roles in people["people"].items()}
    return OperatorCertificates(kind="mtls", ca="ca.pem", people=named)


def by_token(**roles):
    return OperatorTokens(
        kind="jwt",
        jwks="jwks.json",
        issuer=ISSUER,
        audience=AUDIENCE,
        roles_claim="groups",
        roles={name: tuple(some) for name, some in roles.items()},
    )


async def test_a_listed_certificate_reaches_what_its_roles_open(tmp_path):
    ca = Authority(NOW)
    scraper, _ = ca.issue(tmp_path, x509.DNSName("prometheus.monitoring"))
    ada, ada_key = ca.issue(tmp_path)
    robot, _ = ca.issue(tmp_path, x509.UniformResourceIdentifier("spiffe://example/robot"))
    people = {
        "dns:prometheus.monitoring": ["metrics"],
        ada_key: ["metrics", "admin"],
        "uri:spiffe://example/robot": ["admin"],
    }
    async with operated(by_certificate(people=people), ca.pem) as gateway:
        assert await ask(gateway, METRICS, file=scraper) == (200, None)
        assert await ask(gateway, STATUS, file=scraper) == (403, "operator-role")
        assert await ask(gateway, STATUS, file=ada) == (200, None)
        assert await ask(gateway, STATUS, file=robot) == (200, None)
        assert await ask(gateway, STATUS, file=ada, method="POST") == (405, "method-not-allowed")
        assert await ask(gateway, "/v1/models", file=ada) == (404, "route-unknown")
    seen = [(event.operator, event.route, event.status) for event in gateway.record.events]
    assert seen[:3] == [
        ("dns:prometheus.monitoring", METRICS, 200),
        ("dns:prometheus.monitoring", STATUS, 403),
        (ada_key, STATUS, 200),
    ]


async def test_a_certificate_that_is_not_listed_or_listed_twice_is_refused(tmp_path):
    ca = Authority(NOW)
    stranger, _ = ca.issue(tmp_path, x509.DNSName("stranger"))
    twice, key = ca.issue(tmp_path, x509.DNSName("ops"))
    login = by_certificate(people={"dns:ops": ["metrics"], key: ["admin"]})
    async with operated(login, ca.pem) as gateway:
        assert await ask(gateway, STATUS, file=stranger) == (401, "operator-login")
        assert await ask(gateway, STATUS, file=twice) == (401, "operator-login")
    assert [event.operator for event in gateway.record.events] == [None, None]


@pytest.mark.parametrize("whose", ["nobody", "another authority"])
async def test_who_has_no_certificate_of_the_authority_reaches_no_application(tmp_path, whose):
    ca = Authority(NOW)
    file = None
    if whose == "another authority":
        file, _ = Authority(NOW).issue(tmp_path, x509.DNSName("ops"))
    async with operated(by_certificate(people={"dns:ops": ["admin"]}), ca.pem) as gateway:
        with pytest.raises(httpx2.TransportError):
            await ask(gateway, STATUS, file=file)
    assert gateway.record.events == []


async def test_a_connection_does_not_outlive_its_certificate(tmp_path):
    ca = Authority(NOW)
    file, _ = ca.issue(tmp_path, x509.DNSName("ops"), days=1)
    times = [NOW]
    login = by_certificate(people={"dns:ops": ["admin"]})
    async with operated(login, ca.pem, clock=lambda: times[0]) as gateway:
        context = with_certificate(gateway.trust(), file)
        async with httpx2.AsyncClient(base_url=gateway.url, verify=context) as http:
            assert (await http.get(STATUS)).status_code == 200
            times[0] = NOW + timedelta(days=1)
            assert (await http.get(STATUS)).status_code == 401


async def test_a_token_gives_the_roles_of_its_groups():
    idp = Provider(NOW)
    async with operated(by_token(ops=["metrics"], boss=["admin"]), idp.jwks()) as gateway:
        assert await ask(gateway, METRICS, token=idp.token(groups=["ops"])) == (200, None)
        assert await ask(gateway, STATUS, token=idp.token(groups=["ops"])) == (403, "operator-role")
        assert await ask(gateway, STATUS, token=idp.token(groups="boss")) == (200, None)
        assert await ask(gateway, STATUS, token=idp.token()) == (403, "operator-role")
    assert {event.operator for event in gateway.record.events} == {"ada"}


PAST, LATER = int(NOW.timestamp()) - 3600, int(NOW.timestamp()) + 3600


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": "another-service"},
        {"aud": None},
        {"exp": PAST},
        {"exp": None},
        {"exp": "later"},
        {"nbf": LATER},
        {"sub": None},
        {"sub": "a\nb"},
        {"sub": "a" * 129},
    ],
)
async def test_a_token_that_is_not_for_us_now_is_refused(claims):
    idp = Provider(NOW)
    async with operated(by_token(boss=["admin"]), idp.jwks()) as gateway:
        token = idp.token(groups=["boss"], **claims)
        assert await ask(gateway, STATUS, token=token) == (401, "operator-login")


async def test_a_token_of_another_key_algorithm_or_none_is_refused():
    idp = Provider(NOW)
    stranger = RSAKey.import_key(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    public = OctKey.import_key(idp.jwks())
    head = "eyJhbGciOiJub25lIn0."
    async with operated(by_token(boss=["admin"]), idp.jwks()) as gateway:
        for token in (
            Provider(NOW).token(groups=["boss"]),
            idp.token(groups=["boss"], key=stranger, algorithm="RS256"),
            idp.token(groups=["boss"], key=public, algorithm="HS256"),
            head + idp.token(groups=["boss"]).split(".")[1] + ".",
            "x",
            "a" * 20_000,
        ):
            assert await ask(gateway, STATUS, token=token) == (401, "operator-login")
        assert await ask(gateway, STATUS) == (401, "operator-login")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"keys":[]}',
        b'{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}',
    ],
)
def test_a_file_that_is_no_set_of_public_keys_stops_the_start(data):
    with pytest.raises(ConfigError) as caught:
        identify_by(by_token(boss=["admin"]), data)
    assert caught.value.code == "login-jwks"


@pytest.mark.parametrize("data", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_a_file_that_is_no_authority_stops_the_start(data):
    with pytest.raises(ConfigError) as caught:
        identify_by(by_certificate(people={"dns:ops": ["admin"]}), data)
    assert caught.value.code == "login-ca"


def settings(port: int, trusted: bytes) -> Settings:
    example = Path(__file__).parents[2] / "configs" / "simulated.yaml"
    login = {"kind": "mtls", "ca": "ca.pem", "people": {"dns:ops": ["admin"]}}
    section = {"operator": {"host": "127.0.0.1", "port": port, "login": login}}
    text = example.read_bytes() + yaml.safe_dump(section).encode()
    file = parse_yaml(SettingsFile, text, name="serve.yaml")
    return Settings(file, example.parent, Digest.sha256(text), {"operator.login": trusted})


async def test_the_section_of_the_settings_opens_the_port_it_names(tmp_path):
    ca = Authority(NOW)
    file, _ = ca.issue(tmp_path, x509.DNSName("ops"))
    gateway = prepared()
    gateway.ready = replace(gateway.ready, clock=lambda: NOW)
    asked = settings(0, ca.pem)
    login = operator_login(asked)
    own = {"ready": gateway.ready, "identity": gateway.identity, "telemetry": counted(gateway)}
    async with operator_listening(asked, login, **own) as address:
        gateway.port = address.port
        assert await ask(gateway, STATUS, file=file) == (200, None)
        with pytest.raises(ConfigError) as caught:
            async with operator_listening(settings(address.port, ca.pem), login, **own):
                pass
        assert caught.value.code == "port-taken"


def test_a_login_that_cannot_work_stops_the_start_before_any_engine():
    with pytest.raises(ConfigError) as caught:
        operator_login(settings(0, b"no certificate"))
    assert caught.value.code == "login-ca"
