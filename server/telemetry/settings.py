"""The `telemetry` section of the measured settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from attestation.codec import Document
from server.access import FilePath


class Collector(Document):
    """Where spans, metrics and log events are pushed: OTLP over HTTPS, nothing else."""

    url: Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.:\[\]-]{1,255}$")]
    """`https://HOST[:PORT]`; the paths are those of the OTLP specification."""
    ca: FilePath
    """PEM certificates that the collector's must be or lead to; measured."""
    token: FilePath | None = None
    """A file with a bearer token. Its path is measured; its content may change at any time."""
    certificate: FilePath | None = None
    """A PEM file with a client certificate and its key, renewed like the token."""
    interval_seconds: Annotated[int, Field(ge=1, le=3600)]


class TelemetrySettings(Document):
    """What may be told about requests, and to whom; every text in it is from a closed list."""

    tenants: bool
    """Whether tenants have a name in metrics and spans."""
    engine: bool
    """Whether vLLM counts at all, and a list of its counts is passed on."""
    otlp: Collector | None = None
    """Absent: nothing is pushed anywhere."""
