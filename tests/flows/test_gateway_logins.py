"""Clients that log in by token or certificate, over real TLS, beside those with API keys."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import OctKey

from server.access import ClientCertificates, ClientTokens
from server.logins import ClientLogins, by_certificate, by_token
from server.tls import ClientAuthority
from tests.gateway_kit import chat, keys, prepared, running
from tests.logins import AUDIENCE, ISSUER, Authority, Provider, with_certificate

NOW = datetime.now(UTC)
CHAT = "/v1/chat/completions"
TENANTS = {"acme-org": "acme", "globex-org": "globex"}


def token_login(idp: Provider):
    login = ClientTokens(
        jwks="jwks.json", issuer=ISSUER, audience=AUDIENCE, tenant_claim="org", tenants=TENANTS
    )
    return by_token(login, idp.jwks())


@contextlib.contextmanager
def serving(*ways, authority=None):
    gateway = prepared(logins=ClientLogins(ways, authority))
    loaded, gateway.api_keys = keys("acme", now=NOW)
    gateway.ready = replace(gateway.ready, keys=loaded, clock=lambda: NOW)
    with running(gateway):
        yield gateway


def ask(gateway, *, token=None, file=None, headers=()):
    said = [*headers] if token is None else [("authorization", f"Bearer {token}"), *headers]
    context = with_certificate(gateway.trust(), file)
    with httpx2.Client(base_url=gateway.url, verify=context, headers=said, timeout=20) as http:
        answer = http.post(CHAT, json=chat())
    code = answer.json()["error"]["code"] if answer.status_code >= 400 else None
    return answer.status_code, code


def callers(gateway):
    return [(event.tenant, event.key) for event in gateway.record.events]


def test_a_token_speaks_for_the_tenant_of_its_claim_beside_api_keys():
    idp = Provider(NOW)
    with serving(token_login(idp)) as gateway:
        assert ask(gateway, token=idp.token(org="acme-org")) == (200, None)
        assert ask(gateway, token=idp.token(org=["other", "globex-org"])) == (200, None)
        assert ask(gateway, token=gateway.api_keys[0]) == (200, None)
        assert ask(gateway) == (401, "key-missing")
    assert callers(gateway)[:3] == [("acme", None), ("globex", None), ("acme", "key00000")]


def test_a_token_and_a_key_of_one_tenant_share_its_prefix_cache_and_no_other():
    idp = Provider(NOW)
    with serving(token_login(idp)) as gateway:
        ask(gateway, token=idp.token(org="acme-org"))
        ask(gateway, token=gateway.api_keys[0])
        ask(gateway, token=idp.token(org="globex-org"))
    one, same, other = (body["cache_salt"] for body in gateway.engine.bodies)
    assert one == same != other


@pytest.mark.parametrize("org", [None, "stranger", ["acme-org", "globex-org"], 7, {"a": 1}])
def test_a_token_of_no_tenant_or_of_two_is_refused(org):
    idp = Provider(NOW)
    with serving(token_login(idp)) as gateway:
        assert ask(gateway, token=idp.token(org=org)) == (401, "token-tenant")
    assert callers(gateway) == [(None, None)]


def test_a_token_that_is_not_genuine_current_and_ours_is_refused():
    idp = Provider(NOW)
    public = OctKey.import_key(idp.jwks())
    past = int(NOW.timestamp()) - 31
    with serving(token_login(idp)) as gateway:
        for token in (
            Provider(NOW).token(org="acme-org"),
            idp.token(org="acme-org", exp=past),
            idp.token(org="acme-org", aud="other"),
            idp.token(org="acme-org", iss="other"),
            idp.token(org="acme-org", key=public, algorithm="HS256"),
            "x.y.z",
            "sk-other-key",
        ):
            assert ask(gateway, token=token) == (401, "token-refused")
    assert gateway.engine.bodies == []


def test_a_clock_that_differs_a_little_is_forgiven():
    idp = Provider(NOW)
    second = int(NOW.timestamp())
    with serving(token_login(idp)) as gateway:
        assert ask(gateway, token=idp.token(org="acme-org", exp=second - 29)) == (200, None)
        assert ask(gateway, token=idp.token(org="acme-org", nbf=second + 29)) == (200, None)


def test_a_provider_changes_its_key_without_a_gap():
    idp = Provider(NOW)
    idp.keys["two"] = ec.generate_private_key(ec.SECP256R1())
    with serving(token_login(idp)) as gateway:
        assert ask(gateway, token=idp.token(org="acme-org")) == (200, None)
        assert ask(gateway, token=idp.token(org="acme-org", kid="two")) == (200, None)
        idp.keys["three"] = ec.generate_private_key(ec.SECP256R1())
        assert ask(gateway, token=idp.token(org="acme-org", kid="three")) == (401, "token-refused")


def certificate_login(ca, **changes):
    listed = {"dns:app.acme": "acme", "uri:spiffe://globex/app": "globex"} | changes
    login = ClientCertificates(ca="ca.pem", tenants=listed)
    return by_certificate(login), ClientAuthority(ca.pem, required=False)


def test_a_certificate_speaks_for_its_tenant_and_nobody_needs_one(tmp_path):
    ca = Authority(NOW)
    acme, _ = ca.issue(tmp_path, x509.DNSName("app.acme"))
    globex, _ = ca.issue(tmp_path, x509.UniformResourceIdentifier("spiffe://globex/app"))
    stranger, _ = ca.issue(tmp_path, x509.DNSName("app.other"))
    way, authority = certificate_login(ca)
    with serving(way, authority=authority) as gateway:
        assert ask(gateway, file=acme) == (200, None)
        assert ask(gateway, file=globex) == (200, None)
        assert ask(gateway, file=stranger) == (401, "certificate-refused")
        assert ask(gateway, token=gateway.api_keys[0]) == (200, None)
        assert ask(gateway) == (401, "key-missing")
        with httpx2.Client(base_url=gateway.url, verify=gateway.trust()) as http:
            assert http.get("/healthz").status_code == 200
    assert callers(gateway)[:4] == [
        ("acme", "dns:app.acme"),
        ("globex", "uri:spiffe://globex/app"),
        (None, None),
        ("acme", "key00000"),
    ]


def test_a_header_decides_alone_where_there_is_one(tmp_path):
    ca = Authority(NOW)
    globex, _ = ca.issue(tmp_path, x509.UniformResourceIdentifier("spiffe://globex/app"))
    way, authority = certificate_login(ca)
    with serving(way, authority=authority) as gateway:
        assert ask(gateway, file=globex, token=gateway.api_keys[0]) == (200, None)
        assert ask(gateway, file=globex, token="sk-tacit-x") == (401, "key-malformed")
        twice = [("authorization", f"Bearer {gateway.api_keys[0]}")] * 2
        assert ask(gateway, file=globex, headers=twice) == (401, "key-missing")
    assert callers(gateway)[0] == ("acme", "key00000")


def test_a_certificate_of_a_stranger_or_one_that_ended_does_not_connect(tmp_path):
    ca = Authority(NOW)
    foreign, _ = Authority(NOW).issue(tmp_path, x509.DNSName("app.acme"))
    ended, _ = ca.issue(tmp_path, x509.DNSName("app.acme"), days=-1)
    way, authority = certificate_login(ca)
    with serving(way, authority=authority) as gateway:
        for file in (foreign, ended):
            with pytest.raises(httpx2.TransportError):
                ask(gateway, file=file)
    assert gateway.record.events == []


def test_a_certificate_that_a_proxy_writes_into_a_header_is_nobody(tmp_path):
    ca = Authority(NOW)
    file, _ = ca.issue(tmp_path, x509.DNSName("app.acme"))
    pem = file.read_text().partition("-----BEGIN PRIVATE")[0].strip().replace("\n", " ")
    way, authority = certificate_login(ca)
    with serving(way, authority=authority) as gateway:
        for name in ("x-forwarded-client-cert", "ssl-client-cert", "x-client-cert"):
            assert ask(gateway, headers=[(name, pem)]) == (401, "key-missing")


def test_a_connection_does_not_outlive_its_certificate(tmp_path):
    ca = Authority(NOW)
    file, _ = ca.issue(tmp_path, x509.DNSName("app.acme"), days=1)
    way, authority = certificate_login(ca)
    times = [NOW]
    gateway = prepared(logins=ClientLogins((way,), authority))
    gateway.ready = replace(gateway.ready, clock=lambda: times[0])
    with running(gateway):
        context = with_certificate(gateway.trust(), file)
        with httpx2.Client(base_url=gateway.url, verify=context) as http:
            assert http.get("/v1/models").status_code == 200
            times[0] = NOW + timedelta(days=1)
            assert http.get("/v1/models").status_code == 401
