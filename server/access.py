"""Access: the parts of the measured settings that say who may use and operate a guest."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from attestation.codec import Document
from attestation.keyset import Name

Role: TypeAlias = Literal["metrics", "admin"]
"""`metrics` reads numbers; `admin` lists and changes API keys."""
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Claim = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
CertificateName = Annotated[
    str,
    StringConstraints(pattern=r"^(dns:[a-z0-9.-]{1,253}|uri:[!-~]{1,512}|sha256:[0-9a-f]{64})$"),
]
"""How a certificate is listed: a subject alternative name, or the SHA-256 of its public key."""


class OperatorCertificates(Document):
    """Operators log in by TLS client certificate; who is not listed is nobody."""

    kind: Literal["mtls"]
    ca: FilePath
    """PEM certificates that client certificates must lead to; measured."""
    people: Annotated[dict[CertificateName, tuple[Role, ...]], Field(min_length=1)]


class OperatorTokens(Document):
    """Operators log in by JWT of an identity provider, verified with a file of its keys."""

    kind: Literal["jwt"]
    jwks: FilePath
    """The provider's keys (RFC 7517); measured, because who writes them can be any operator."""
    issuer: Short
    audience: Short
    roles_claim: Claim
    """The claim that lists groups."""
    roles: Annotated[dict[Short, tuple[Role, ...]], Field(min_length=1)]
    """Group -> roles."""


OperatorLogin = Annotated[OperatorCertificates | OperatorTokens, Field(discriminator="kind")]


class OperatorSettings(Document):
    """The operator listener: an address of its own, under the attested key of the guest."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    login: OperatorLogin


class TenantSettings(Document):
    """What one tenant may ask; there is no default, so nobody is unlimited by omission."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000)]
    tokens_per_minute: Annotated[int, Field(ge=1, le=10_000_000_000)]
    """Prompt and answer together, as OpenAI counts them."""
    concurrent_requests: Annotated[int, Field(ge=1, le=65_536)]
    models: Annotated[tuple[Name, ...], Field(min_length=1)]


class ClientTokens(Document):
    """Clients may send a JWT of an identity provider in place of an API key."""

    jwks: FilePath
    """The provider's keys (RFC 7517); measured, because who writes them can be any tenant.

    Several may be listed: publish the next key here before the provider signs with it.
    """
    issuer: Short
    audience: Short
    tenant_claim: Claim
    tenants: Annotated[dict[Short, Tenant], Field(min_length=1)]
    """Value of the claim -> tenant."""


class ClientCertificates(Document):
    """Clients may prove to hold a TLS certificate in place of an API key."""

    ca: FilePath
    """PEM certificates that client certificates must lead to; measured."""
    tenants: Annotated[dict[CertificateName, Tenant], Field(min_length=1)]


class ClientSettings(Document):
    """How clients may log in beside API keys."""

    tokens: ClientTokens | None = None
    certificates: ClientCertificates | None = None

    @model_validator(mode="after")
    def _some(self) -> ClientSettings:
        if self.tokens is None and self.certificates is None:
            raise ValueError("clients needs tokens or certificates; leave the section out for none")
        return self
