"""Files of a collector's operator in, what one push logs in by out.

Both are read for every push, so that whoever renews them restarts no guest.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from attestation.errors import ConfigError
from attestation.regular import open_regular, read_regular
from server.telemetry.settings import Collector

_MAX_TOKEN = 16 * 1024
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1."""


@dataclass(frozen=True, slots=True)
class CollectorLogin:
    """Where a token and a client certificate lie, if the collector wants one."""

    token: Path | None
    certificate: Path | None

    @classmethod
    def of(cls, collector: Collector, *, directory: Path) -> Self:
        """Return the files that the settings in `directory` name."""
        token, certificate = collector.token, collector.certificate
        return cls(
            None if token is None else directory / token,
            None if certificate is None else directory / certificate,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Return what nobody but the gateway may read."""
        return tuple(path for path in (self.token, self.certificate) if path is not None)

    def headers(self) -> dict[str, str]:
        """Return the header that brings the token; raises `ConfigError` `telemetry-login`."""
        if self.token is None:
            return {}
        try:
            token = read_regular(self.token, limit=_MAX_TOKEN).strip()
        except OSError:
            raise _unreadable("token") from None
        if len(token) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise _unreadable("token")
        return {"Authorization": f"Bearer {token.decode()}"}

    def certify(self, context: ssl.SSLContext) -> None:
        """Have the next handshake present the certificate; raises like `headers`."""
        if self.certificate is None:
            return
        try:
            open_regular(self.certificate).close()  # a pipe would be waited for below
            context.load_cert_chain(self.certificate, password="")  # asks nobody for one
        except OSError:  # ssl.SSLError is one
            raise _unreadable("certificate") from None


def _unreadable(what: str) -> ConfigError:
    return ConfigError("telemetry-login", f"the file of otlp.{what} holds none that can be read")
