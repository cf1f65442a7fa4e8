"""Logins beside API keys: a client's token or certificate in, the `Caller` it stands for out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.errors import NotAuthentic
from attestation.tokens import Issuer, key_set, listed
from server import exchange
from server.access import ClientCertificates, ClientTokens
from server.auth import Caller, Keys
from server.certificates import authority, listing, presented
from server.errors import Unauthenticated
from server.settings import Settings
from server.tls import ClientAuthority

Login = Callable[[Mapping[str, Any], datetime], Caller | None]
"""(ASGI scope, now) -> the caller, None when the request tries another login, or a refusal."""

_BEARER = "bearer "
_API_KEY = "sk-tacit-"


@dataclass(frozen=True, slots=True)
class ClientLogins:
    """The ways to log in beside API keys, in the order they are tried."""

    ways: tuple[Login, ...] = ()
    certificates: ClientAuthority | None = None
    """Whom the public listener asks for client certificates of; None asks nobody."""

    @classmethod
    def of(cls, settings: Settings) -> ClientLogins:
        """Return what the settings allow, or raise `ConfigError` for a file that is none."""
        if (clients := settings.file.clients) is None:
            return cls()
        ways: list[Login] = []
        asked = None
        if (tokens := clients.tokens) is not None:
            ways.append(by_token(tokens, settings.trust["clients.tokens"]))
        if (certificates := clients.certificates) is not None:
            pem = settings.trust["clients.certificates"]
            authority(pem, name=certificates.ca)
            ways.append(by_certificate(certificates))
            asked = ClientAuthority(pem, required=False)
        return cls(tuple(ways), asked)

    def caller(self, scope: Mapping[str, Any], *, keys: Keys, now: datetime) -> Caller:
        """Return who sent this request, by the one credential that it uses."""
        for way in self.ways:
            if (found := way(scope, now)) is not None:
                return found
        header = exchange.authorization(scope)
        return keys.authenticate(None if header is None else header.encode("latin-1"), now)


def by_token(login: ClientTokens, jwks: bytes) -> Login:
    """Log in by `Authorization: Bearer JWT`; what begins like an API key is left to those."""
    issuer = Issuer(login.issuer, login.audience, key_set(jwks, name=login.jwks, code="login-jwks"))

    def log_in(scope: Mapping[str, Any], now: datetime) -> Caller | None:
        header = exchange.authorization(scope) or ""
        if not header.lower().startswith(_BEARER) or header[len(_BEARER) :].startswith(_API_KEY):
            return None
        try:
            claims = issuer.claims(header, now)
        except NotAuthentic:
            raise Unauthenticated("token-refused") from None
        said = [text for text in listed(claims.get(login.tenant_claim)) if isinstance(text, str)]
        tenants = {login.tenants[text] for text in said if text in login.tenants}
        if len(tenants) != 1:
            raise Unauthenticated("token-tenant")
        return Caller(tenants.pop(), None)

    return log_in


def by_certificate(login: ClientCertificates) -> Login:
    """Log in by client certificate, where no Authorization header says otherwise."""

    def log_in(scope: Mapping[str, Any], now: datetime) -> Caller | None:
        certificate = presented(scope)
        if certificate is None or any(name == b"authorization" for name, _ in scope["headers"]):
            return None
        try:
            name, tenant = listing(certificate, login.tenants, now)
        except NotAuthentic:
            raise Unauthenticated("certificate-refused") from None
        return Caller(tenant, name)

    return log_in
