"""The telemetry of a guest: `Ready` and settings in, `/metrics` and pushes to a collector out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from starlette.types import Receive, Scope, Send

from server.engine.protocol import EngineBroken
from server.onion import respond
from server.ready import Ready
from server.telemetry import engine as vllm
from server.telemetry import instruments as known
from server.telemetry import otlp, prometheus
from server.telemetry import vocabulary as names
from server.telemetry.exporter import Exporter, Target
from server.telemetry.instruments import Family, Point
from server.telemetry.login import CollectorLogin
from server.telemetry.logs import EventQueue
from server.telemetry.meters import Meters, gauge
from server.telemetry.otlp import Reading, Resource
from server.telemetry.requests import Observed, Requests
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stapled import Stapled
from server.telemetry.vocabulary import Vocabulary

ENGINE_SECONDS = 10.0
"""How old engines' numbers may be. Finer ones would show single requests to whoever scrapes."""
_SCRAPE_SECONDS = 5


class Measured(Protocol):
    """An engine that says its metrics."""

    async def metrics(self) -> bytes:
        """Return Prometheus' text, or raise `EngineBroken`."""


@dataclass(slots=True)
class Engines:
    """The metrics of all engines, asked again at most every `ENGINE_SECONDS`."""

    engines: Mapping[str, Measured]
    vocabulary: Vocabulary
    passed: bool
    """Whether vLLM's own numbers are passed on, or only whether it answers."""
    _read: tuple[Family, ...] = ()
    _at: float | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def families(self) -> tuple[Family, ...]:
        """Return what the engines said last."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._at is None or loop.time() - self._at >= ENGINE_SECONDS:
                asked = (self._ask(name, self.engines[name]) for name in sorted(self.engines))
                self._read = tuple(
                    family for found in await asyncio.gather(*asked) for family in found
                )
                self._at = loop.time()
            return self._read

    async def _ask(self, model: str, engine: Measured) -> tuple[Family, ...]:
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                text = await engine.metrics()
        except (EngineBroken, TimeoutError):
            return (self._up(model, 0),)
        if not self.passed:
            return (self._up(model, 1),)
        said = await asyncio.to_thread(vllm.families, text, model=model, vocabulary=self.vocabulary)
        return (self._up(model, 1), *said)

    def _up(self, model: str, value: int) -> Family:
        return gauge(known.ENGINE_UP, value, {names.MODEL: model}, vocabulary=self.vocabulary)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Everything that is counted in this guest, and how it leaves."""

    ready: Ready
    meters: Meters
    engines: Engines
    stapled: Stapled
    exporter: Exporter | None
    since: datetime
    certificate_expires: datetime
    simulated: bool
    interval_seconds: float

    def observed(self) -> Ready:
        """Return the `Ready` whose requests are counted, for the public listener."""
        traced = None if self.exporter is None else self.exporter.span
        sink = Observed(self.ready.audit, Requests(self.meters, traced))
        return replace(self.ready, audit=sink, report=self.stapled.report)

    async def families(self) -> tuple[Family, ...]:
        """Return every number as it is now."""
        ready, admission = self.ready, self.ready.admission
        rotation = ready.healthy() and not admission.draining
        ends = await self.stapled.ends()
        stapled = ((known.COLLATERAL, ends.intel), (known.OCSP, ends.nvidia))
        gauges = (
            (known.ACTIVE, admission.in_flight),
            (known.PLACES, admission.limit),
            (known.ROTATION, int(rotation)),
            (known.CERTIFICATE, self.certificate_expires.timestamp()),
            (known.SIMULATED, int(self.simulated)),
            *((one, end.timestamp()) for one, end in stapled if end is not None),
        )
        read = (gauge(one, value, vocabulary=self.meters.vocabulary) for one, value in gauges)
        return (*self.meters.families(), self._dropped(), *read, *await self.engines.families())

    def _dropped(self) -> Family:
        lost = {} if self.exporter is None else self.exporter.dropped()
        points = (
            Point(((names.SIGNAL, signal),), lost.get(signal, 0)) for signal in sorted(otlp.PATHS)
        )
        return Family(known.DROPPED, tuple(points))

    async def metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `GET /metrics` in Prometheus' text format."""
        del scope, receive
        body = prometheus.text(await self.families())
        await respond(send, 200, body, media=prometheus.MEDIA)

    @contextlib.asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        """Push spans, metrics and log events inside the block, if there is a collector."""
        if self.exporter is None:
            yield
            return
        with self.exporter.running(), EventQueue(self.exporter.event, self.meters.vocabulary):
            task = asyncio.create_task(self._read_often(self.exporter))
            try:
                yield
            finally:
                task.cancel()
                await self._read(self.exporter)

    async def _read_often(self, exporter: Exporter) -> None:
        while True:
            await asyncio.sleep(self.interval_seconds)
            await self._read(exporter)

    async def _read(self, exporter: Exporter) -> None:
        families = await self.families()
        exporter.reading(Reading(since=self.since, at=self.ready.clock(), families=families))


def telemetry(
    settings: TelemetrySettings | None,
    ready: Ready,
    *,
    routes: Iterable[str],
    certificate_expires: datetime,
    simulated: bool,
    authority: bytes | None,
    directory: Path,
) -> Telemetry:
    """Return the telemetry of a guest; without settings nothing is pushed and no tenant named.

    `authority` are the bytes of `otlp.ca`, `directory` is where its other paths begin. Raises
    `ConfigError` `telemetry-collector` or `telemetry-login`.
    """
    tenants = settings is not None and settings.tenants
    vocabulary = Vocabulary.of(models=ready.models, routes=routes, tenants=tenants)
    collector = None if settings is None else settings.otlp
    exporter = None
    if collector is not None:
        login = CollectorLogin.of(collector, directory=directory)
        target = Target.of(collector, authority=authority or b"", login=login)
        resource = Resource(version("tacit-inference"), secrets.token_hex(16))
        exporter = Exporter(target.post, resource, seconds=collector.interval_seconds)
    return Telemetry(
        ready=ready,
        meters=Meters(vocabulary),
        engines=Engines(
            {name: model.engine for name, model in ready.models.items()},
            vocabulary,
            passed=settings is not None and settings.engine,
        ),
        stapled=Stapled(ready.report),
        exporter=exporter,
        since=ready.clock(),
        certificate_expires=certificate_expires,
        simulated=simulated,
        interval_seconds=15.0 if collector is None else collector.interval_seconds,
    )
