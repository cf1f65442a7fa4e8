"""The applications of both listeners: the onion and the operators' table, written as lists."""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import ASGIApp

from server.adminapi import Administration
from server.onion import Audit, Authentication, Errors, Intake, Quota
from server.operator import OperatorRoute
from server.ready import Ready
from server.routes import OPEN, router
from server.telemetry.service import Telemetry


def create_app(ready: Ready) -> ASGIApp:
    """Return the public API of a guest that is ready.

    Read the layers from the inside out: a request passes them from the last to the first.
    """
    limits = ready.limits
    app: ASGIApp = router(ready)
    app = Quota(app, ready.quotas)
    app = Authentication(app, ready.keys, ready.logins, ready.clock, OPEN)
    app = Intake(app, limits.body_bytes, limits.read_seconds)
    app = Audit(app, ready.audit, ready.clock)
    return Errors(app)


def public_routes(ready: Ready) -> frozenset[str]:
    """Return the paths of the public API, as the table of routes writes them."""
    return frozenset(route.path for route in router(ready).routes if isinstance(route, Route))


def operator_table(ready: Ready, telemetry: Telemetry) -> tuple[OperatorRoute, ...]:
    """Return every route of the operator listener and the role it needs; there are no others."""
    admin = Administration(ready)
    return (
        OperatorRoute("GET", "/metrics", "metrics", telemetry.metrics),
        OperatorRoute("GET", "/v1/admin/status", "admin", admin.status),
        OperatorRoute("GET", "/v1/admin/keys", "admin", admin.keys),
        OperatorRoute("POST", "/v1/admin/keys", "admin", admin.create),
        OperatorRoute("POST", "/v1/admin/keys/rotate", "admin", admin.rotate),
        OperatorRoute("POST", "/v1/admin/keys/revoke", "admin", admin.revoke),
    )
