"""`tacit serve CONFIG`: boot, then serve until SIGTERM; the port opens only when boot succeeded."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

from attestation.commands.files import Commands
from attestation.errors import ConfigError
from server.settings import Settings


def register(commands: Commands) -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="boot this guest and serve the API",
        description="Boot this guest and serve the API. Everything that matters is in CONFIG, which"
        " is measured; the environment and this command line configure nothing.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve; returns 0 after a drained stop, 1 when an engine ended underneath."""
    import uvloop

    from server.hardening import harden

    settings = Settings.load(arguments.config)
    harden(profile=settings.file.profile)
    if settings.file.profile == "simulated":
        _say("SIMULATED attestation: this proves nothing about hardware")
    try:
        return uvloop.run(_serve(settings))
    except asyncio.CancelledError:
        _say("stopped before it was ready")
        return 0


async def _serve(settings: Settings) -> int:
    from server.app import create_app, public_routes
    from server.audit import LogAudit
    from server.boot import boot
    from server.listener import Address, serve, stop_on_signals
    from server.logs import quiet_loop
    from server.operate import operator_listening, operator_login
    from server.telemetry.service import telemetry

    quiet_loop(asyncio.get_running_loop())
    _cancel_on_signals()
    address = Address(settings.file.listen.host, settings.file.listen.port)
    login = operator_login(settings)
    audit = LogAudit(logging.getLogger("tacit.audit"))
    async with (
        boot(settings, clock=lambda: datetime.now(UTC), audit=audit) as booted,
        contextlib.AsyncExitStack() as stack,
    ):
        stop = asyncio.Event()
        stop_on_signals(stop)
        counted = telemetry(
            settings.file.telemetry,
            booted.ready,
            routes=public_routes(booted.ready),
            certificate_expires=booted.identity.expires,
            simulated=settings.file.profile == "simulated",
            authority=settings.trust.get("telemetry.otlp"),
            directory=settings.directory,
        )
        await stack.enter_async_context(counted.pushing())
        watching = asyncio.create_task(_stop_with_engine(booted.engine_ended(), stop))
        try:
            # opened first and closed last, so that operators can watch the drain
            if login is not None:
                operators = operator_listening(
                    settings,
                    login,
                    ready=booted.ready,
                    identity=booted.identity,
                    telemetry=counted,
                )
                found = await stack.enter_async_context(operators)
                _say(f"operators on https://{found.host}:{found.port}")
            await serve(
                create_app(counted.observed()),
                address,
                identity=booted.identity,
                clients=booted.ready.logins.certificates,
                limits=booted.ready.limits,
                admission=booted.ready.admission,
                started=lambda port: _say(f"ready on https://{address.host}:{port}"),
                stop=stop,
            )
        except OSError as error:
            where = f"{address.host}:{address.port}: {error.strerror}"
            raise ConfigError("port-taken", where) from None
        finally:
            watching.cancel()
        return 0 if booted.ready.healthy() else 1


def _cancel_on_signals() -> None:
    """Until there is something to drain, SIGTERM and SIGINT end the boot."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("serve runs in a task")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)


async def _stop_with_engine(ended: Awaitable[None], stop: asyncio.Event) -> None:
    await ended
    _say("an engine ended; draining")
    stop.set()


def _say(words: str) -> None:
    print(f"tacit: {words}", file=sys.stderr, flush=True)
