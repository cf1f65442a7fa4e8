"""Who administrates a broker: a client certificate or a JWT in, a person with roles out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from cryptography import x509
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import Field, StringConstraints

from attestation.codec import Document
from attestation.errors import ConfigError, NotAffirmed, NotAuthentic

Role: TypeAlias = Literal["viewer", "operator", "approver"]
Person = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._:/-]{0,127}$")]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]

ALGORITHMS = ("ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256")
"""Signature algorithms of tokens; none that a published key could forge."""
_MAX_TOKEN = 16 * 1024
_LEEWAY_S = 30


class Certificates(Document):
    """Log in by TLS client certificate; who is not listed is nobody."""

    kind: Literal["mtls"]
    ca: FilePath
    """PEM certificates that client certificates must lead to."""
    people: Annotated[dict[Person, tuple[Role, ...]], Field(min_length=1)]
    """Subject common name -> roles."""


class Tokens(Document):
    """Log in by JWT of an identity provider, verified with a file of its keys."""

    kind: Literal["jwt"]
    jwks: FilePath
    """The provider's keys (RFC 7517); nothing is fetched, so replace the file when they rotate."""
    issuer: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    audience: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    roles_claim: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    """The claim that lists groups."""
    roles: Annotated[dict[str, tuple[Role, ...]], Field(min_length=1)]
    """Group -> roles."""


Login = Annotated[Certificates | Tokens, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Actor:
    """A person as one request proved it."""

    name: str
    roles: frozenset[Role]

    def require(self, role: Role) -> None:
        """Raise `NotAffirmed` `admin-role` unless the person has `role`."""
        if role not in self.roles:
            raise NotAffirmed("admin-role", f"the act needs the role {role}")


Identify = Callable[[str | None, str | None, datetime], Actor]
"""(PEM of the client certificate, Authorization header, now) -> who it is, or a refusal."""


def by_certificate(login: Certificates) -> Identify:
    """Identify by the subject's one common name; TLS has verified the chain."""

    def identify(certificate: str | None, _authorization: str | None, _now: datetime) -> Actor:
        if certificate is None:
            raise NotAuthentic("admin-login", "no client certificate")
        subject = x509.load_pem_x509_certificate(certificate.encode()).subject
        names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        name = names[0].value if len(names) == 1 else ""
        roles = login.people.get(name) if isinstance(name, str) else None
        if roles is None:
            raise NotAuthentic("admin-login", "the certificate names nobody who is listed")
        return Actor(str(name), frozenset(roles))

    return identify


def by_token(login: Tokens, jwks: bytes) -> Identify:
    """Identify by a bearer token (RFC 8725: fixed algorithms, issuer, audience, expiry)."""
    keys = _key_set(jwks, name=login.jwks)

    def identify(_certificate: str | None, authorization: str | None, now: datetime) -> Actor:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_TOKEN:
            raise NotAuthentic("admin-login", "no bearer token")
        try:
            claims = jwt.decode(token, keys, algorithms=list(ALGORITHMS)).claims
        except (JoseError, ValueError, TypeError, KeyError):
            raise NotAuthentic("admin-login", "the token does not verify") from None
        return _actor(claims, login, now=now)

    return identify


def _actor(claims: Mapping[str, Any], login: Tokens, *, now: datetime) -> Actor:
    second = now.timestamp()
    audiences = _listed(claims.get("aud"))
    if claims.get("iss") != login.issuer or login.audience not in audiences:
        raise NotAuthentic("admin-login", "the token is of another issuer or for another service")
    ends, begins = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(ends, int) or second >= ends + _LEEWAY_S:
        raise NotAuthentic("admin-login", "the token has ended, or never does")
    if not isinstance(begins, int) or second < begins - _LEEWAY_S:
        raise NotAuthentic("admin-login", "the token is not valid yet")
    name = claims.get("sub")
    if not isinstance(name, str) or not 0 < len(name) <= 128 or not name.isprintable():
        raise NotAuthentic("admin-login", "the token names nobody")
    groups = claims.get(login.roles_claim)
    listed = [group for group in _listed(groups) if isinstance(group, str)]
    roles = [login.roles.get(group, ()) for group in listed]
    return Actor(name, frozenset(role for some in roles for role in some))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _key_set(data: bytes, *, name: str) -> KeySet:
    try:
        document = json.loads(data)
        keys = KeySet.import_key_set(document)
        private = any(key.is_private for key in keys.keys)
        symmetric = any(key.key_type == "oct" for key in keys.keys)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError("admin-jwks", f"{name} is not a set of public keys") from None
    if private or symmetric or not keys.keys:
        raise ConfigError("admin-jwks", f"{name} must hold public keys and nothing else")
    return keys
