"""The applications of both listeners: the onion and the operators' table, written as lists."""

from __future__ import annotations

from starlette.types import ASGIApp

from server.adminapi import Administration
from server.onion import Audit, Authentication, Errors, Intake
from server.operator import OperatorRoute
from server.ready import Ready
from server.routes import OPEN, router


def create_app(ready: Ready) -> ASGIApp:
    """Return the public API of a guest that is ready.

    Read the layers from the inside out: a request passes them from the last to the first.
    """
    limits = ready.limits
    app: ASGIApp = router(ready)
    app = Authentication(app, ready.keys, ready.clock, OPEN)
    app = Intake(app, limits.body_bytes, limits.read_seconds)
    app = Audit(app, ready.audit, ready.clock)
    return Errors(app)


def operator_table(ready: Ready) -> tuple[OperatorRoute, ...]:
    """Return every route of the operator listener and the role it needs; there are no others."""
    admin = Administration(ready)
    return (OperatorRoute("GET", "/v1/admin/status", "admin", admin.status),)
