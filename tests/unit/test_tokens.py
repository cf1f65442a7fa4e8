"""Tokens: whatever else arrives in place of one, it is refused and nothing else happens."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from attestation.errors import NotAuthentic
from attestation.tokens import Issuer, key_set
from tests.logins import AUDIENCE, ISSUER, Provider

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
IDP = Provider(NOW)
HERE = Issuer(ISSUER, AUDIENCE, key_set(IDP.jwks(), name="jwks", code="login-jwks"))
ODD = (None, 1, -1, 1e308, 10**400, "x", "", [], {}, {"a": 1}, True, "none", "HS256", ["one"])
DEEP = b"[" * 10_000


def refused(authorization: str | None) -> None:
    with pytest.raises(NotAuthentic) as caught:
        HERE.claims(authorization, NOW)
    assert caught.value.code == "token"


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: bytes) -> str:
    key = ECKey.import_key(IDP.keys["one"])
    return jws.serialize_compact({"alg": "ES256", "kid": "one"}, payload, key)


def test_a_genuine_token_says_its_claims():
    assert HERE.claims(f"Bearer {IDP.token(groups=['ops'])}", NOW)["groups"] == ["ops"]
    assert HERE.claims(f"bearer {IDP.token(aud=['x', AUDIENCE])}", NOW)["sub"] == "ada"


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a.b.c", "é.é.é", "." * 10_000, "a" * 16_385, "a b c"]
)
def test_what_is_no_token_is_refused(text):
    for authorization in (text, f"Bearer {text}", f"Basic {text}", None):
        refused(authorization)


@pytest.mark.parametrize("name", ["alg", "kid", "crit", "b64", "jwk", "jku", "x5c", "zip"])
def test_no_header_makes_a_foreign_signature_count(name):
    _, claims, signature = Provider(NOW).token().split(".")
    for value in ODD:
        for header in ({"alg": "ES256", "kid": "one", name: value}, {name: value}):
            refused(f"Bearer {part(header)}.{claims}.{signature}")


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"null", b"{", b"\xff", DEEP])
def test_neither_header_nor_claims_need_be_json(data):
    _, claims, signature = IDP.token().split(".")
    refused(f"Bearer {part(data)}.{claims}.{signature}")
    refused(f"Bearer {signed(data)}")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "nbf"])
def test_a_claim_of_another_type_is_refused_or_harmless(name):
    base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a", "exp": int(NOW.timestamp()) + 100}
    harmless = {"sub": ("x", "none", "HS256"), "exp": (10**400,), "nbf": (1, -1, True)}
    for value in ODD:
        token = f"Bearer {signed(json.dumps(base | {name: value}).encode())}"
        if value in harmless.get(name, ()):
            assert HERE.claims(token, NOW)
        else:
            refused(token)
