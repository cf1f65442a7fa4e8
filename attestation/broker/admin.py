"""Who administrates a broker: a client certificate or a JWT in, a person with roles out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from cryptography import x509
from pydantic import Field, StringConstraints

from attestation.codec import Document
from attestation.errors import NotAffirmed, NotAuthentic
from attestation.tokens import Issuer, granted, key_set

Role: TypeAlias = Literal["viewer", "operator", "approver"]
Person = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._:/-]{0,127}$")]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


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
    keys = key_set(jwks, name=login.jwks, code="admin-jwks")
    issuer = Issuer(login.issuer, login.audience, keys)

    def identify(_certificate: str | None, authorization: str | None, now: datetime) -> Actor:
        try:
            claims = issuer.claims(authorization, now)
        except NotAuthentic as refusal:
            raise NotAuthentic("admin-login", refusal.why) from None
        return Actor(claims["sub"], granted(claims, login.roles, by=login.roles_claim))

    return identify
