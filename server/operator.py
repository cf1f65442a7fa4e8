"""The operator listener's application: a table of routes, each with the role it needs.

Another part of the service is mounted by adding its `OperatorRoute` to `server.app.operator_table`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from attestation.errors import NotAuthentic
from attestation.tokens import Issuer, granted, key_set
from server import exchange
from server.access import OperatorCertificates, OperatorLogin, OperatorTokens, Role
from server.certificates import authority, listing, presented
from server.errors import Forbidden, MethodNotAllowed, Unauthenticated
from server.onion import Audit, Errors, Intake
from server.ready import Clock, Ready
from server.routes import Endpoint, unknown

_BODY_BYTES = 64 * 1024
_READ_SECONDS = 10
_OPERATOR = "tacit.operator"


@dataclass(frozen=True, slots=True)
class OperatorRoute:
    """One row of the table: only an operator with `role` reaches `endpoint`."""

    method: str
    path: str
    role: Role
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Operator:
    """Who sent a request to the operator listener, as far as certificate or token prove it."""

    name: str
    roles: frozenset[Role]


Identify = Callable[[Scope, datetime], Operator]
"""(ASGI scope, now) -> who it is, or `NotAuthentic`."""


def by_certificate(login: OperatorCertificates) -> Identify:
    """Identify by the client certificate; TLS has verified its chain to `login.ca`."""

    def identify(scope: Scope, now: datetime) -> Operator:
        certificate = presented(scope)
        if certificate is None:
            raise NotAuthentic("certificate", "no client certificate")
        name, roles = listing(certificate, login.people, now)
        return Operator(name, frozenset(roles))

    return identify


def by_token(login: OperatorTokens, jwks: bytes) -> Identify:
    """Identify by a bearer token; raises `ConfigError` for a file that is no key set."""
    keys = key_set(jwks, name=login.jwks, code="login-jwks")
    issuer = Issuer(login.issuer, login.audience, keys)

    def identify(scope: Scope, now: datetime) -> Operator:
        claims = issuer.claims(exchange.authorization(scope), now)
        return Operator(claims["sub"], granted(claims, login.roles, by=login.roles_claim))

    return identify


def identify_by(login: OperatorLogin, trusted: bytes) -> Identify:
    """Return how `login` identifies; `trusted` are the bytes of the file it names.

    Raises `ConfigError` for a file that is none.
    """
    if isinstance(login, OperatorCertificates):
        authority(trusted, name=login.ca)
        return by_certificate(login)
    return by_token(login, trusted)


@dataclass(frozen=True, slots=True)
class _Known:
    """Let only listed operators in, whatever they ask for."""

    app: ASGIApp
    identify: Identify
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            operator = self.identify(scope, self.clock())
        except NotAuthentic:
            raise Unauthenticated("operator-login") from None
        exchange.of(scope).operator = operator.name
        await self.app({**scope, _OPERATOR: operator}, receive, send)


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The rows of one path; a role is asked for before the method."""

    rows: tuple[OperatorRoute, ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operator: Operator = scope[_OPERATOR]
        exchange.of(scope).route = self.rows[0].path
        wanted = "GET" if scope["method"] == "HEAD" else scope["method"]
        opened = [row for row in self.rows if row.role in operator.roles]
        if not opened or any(row.method == wanted for row in self.rows if row not in opened):
            raise Forbidden("operator-role")
        found = [row for row in opened if row.method == wanted]
        if not found:
            raise MethodNotAllowed(
                "method-not-allowed", allow=", ".join(row.method for row in opened)
            )
        await found[0].endpoint(scope, receive, send)


def create_operator_app(
    ready: Ready, identify: Identify, *, table: tuple[OperatorRoute, ...]
) -> ASGIApp:
    """Return the application of the operator listener; every act and refusal is audited."""
    paths = dict.fromkeys(row.path for row in table)
    routes = [
        Route(path, _Guarded(tuple(row for row in table if row.path == path))) for path in paths
    ]
    app: ASGIApp = Router(routes, redirect_slashes=False, default=unknown)
    app = _Known(app, identify, ready.clock)
    app = Intake(app, _BODY_BYTES, _READ_SECONDS)
    app = Audit(app, ready.audit, ready.clock)
    return Errors(app)
