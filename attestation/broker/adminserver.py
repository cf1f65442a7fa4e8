"""The admin listener: TLS 1.3 on an address of its own, in the process of the broker."""

from __future__ import annotations

import socket
import ssl
from asyncio import Transport
from pathlib import Path
from typing import Any

import uvicorn

from attestation.broker.accepting import TlsServer
from attestation.broker.admin import Certificates, Identify, by_certificate, by_token
from attestation.broker.adminapi import create_admin
from attestation.broker.connection import Connection
from attestation.broker.service import KeyBroker
from attestation.broker.settings import AdminFile, BrokerSettings, read_file
from attestation.errors import ConfigError

MAX_CONNECTIONS = 32


class WithCertificate(Connection):
    """A connection that tells the application which certificate the peer proved to have."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wrap the application of this connection (ASGI TLS extension: `client_cert_chain`)."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        chain = [] if der is None else [ssl.DER_cert_to_PEM_cert(der)]
        application = self.app

        async def told(scope: Any, receive: Any, send: Any) -> None:
            extensions = {**scope.get("extensions", {}), "tls": {"client_cert_chain": chain}}
            await application({**scope, "extensions": extensions}, receive, send)

        self.app = told


class AdminServer(TlsServer):
    """Starts and stops with the broker's server, in its event loop."""

    def __init__(self, broker: KeyBroker, settings: BrokerSettings, admin: AdminFile) -> None:
        login = admin.login
        mutual = isinstance(login, Certificates)
        config = uvicorn.Config(
            create_admin(broker, _identify(settings, admin)),
            host=admin.listen.host,
            port=admin.listen.port,
            http=WithCertificate,
            ssl_certfile=settings.path(admin.tls.certificate),
            ssl_keyfile=settings.path(admin.tls.key),
            ssl_cert_reqs=ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE,
            ssl_ca_certs=str(settings.path(login.ca)) if isinstance(login, Certificates) else None,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=10,
            limit_concurrency=MAX_CONNECTIONS,
        )
        try:
            config.load()
        except (OSError, ValueError):
            raise ConfigError("broker-tls", "admin: certificate, key or CA do not load") from None
        if config.ssl is None:
            raise ConfigError("broker-tls", "the admin listener is served over TLS only")
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        super().__init__(config)
        self.lifespan = config.lifespan_class(config)

    async def listen(self, listening: socket.socket) -> int:
        """Accept connections and return the port."""
        await self.startup([listening])
        return int(self.servers[0].sockets[0].getsockname()[1])


def _identify(settings: BrokerSettings, admin: AdminFile) -> Identify:
    login = admin.login
    if isinstance(login, Certificates):
        return by_certificate(login)
    return by_token(login, read_file(Path(settings.path(login.jwks))))
