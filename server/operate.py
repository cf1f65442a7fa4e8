"""The operator listener of a guest: its settings in, an open port for as long as the block runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from attestation.errors import ConfigError
from server.app import operator_table
from server.listener import Address, listening
from server.operator import Identify, create_operator_app, identify_by
from server.ready import Ready
from server.settings import Settings
from server.telemetry.service import Telemetry
from server.tls import ClientAuthority, TlsIdentity, server_context


def operator_login(settings: Settings) -> Identify | None:
    """Return how operators log in, None without a section for them; raises `ConfigError`."""
    if (operator := settings.file.operator) is None:
        return None
    return identify_by(operator.login, settings.trust["operator.login"])


@contextlib.asynccontextmanager
async def operator_listening(
    settings: Settings,
    identify: Identify,
    *,
    ready: Ready,
    identity: TlsIdentity,
    telemetry: Telemetry,
) -> AsyncIterator[Address]:
    """Serve operators inside the block and yield where.

    The listener shows the attested key of this boot, so an operator verifies it as clients do.
    Raises `ConfigError` `port-taken`, or `config-invalid` without a section for operators.
    """
    if (operator := settings.file.operator) is None:
        raise ConfigError("config-invalid", "no operator section")
    authority = settings.trust["operator.login"] if operator.login.kind == "mtls" else None
    clients = None if authority is None else ClientAuthority(authority, required=True)
    app = create_operator_app(ready, identify, table=operator_table(ready, telemetry))
    async with contextlib.AsyncExitStack() as stack:
        address = Address(operator.host, operator.port)
        try:
            opened = listening(app, address, context=server_context(identity, clients))
            port = (await stack.enter_async_context(opened)).port
        except OSError as error:
            where = f"{address.host}:{address.port}: {error.strerror}"
            raise ConfigError("port-taken", where) from None
        yield Address(operator.host, port)
