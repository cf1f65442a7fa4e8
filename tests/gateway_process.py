"""A gateway as a process of its own, before the engine of a socket; its numbers are its own.

Run as `python -m tests.gateway_process SOCKET INFO`: INFO gets port, API key and certificate.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from server.admission import Admission
from server.app import create_app
from server.audit import AuditEvent
from server.engine.client import EngineClient
from server.listener import Address, serve
from tests.gateway_kit import prepared

PLACES = 256


class Nowhere:
    """An audit sink that keeps nothing, so that what grows is the gateway."""

    async def record(self, event: AuditEvent) -> None:
        pass


async def main(path: str, info: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gateway = prepared(EngineClient(path), concurrent_requests=PLACES)
    ready = replace(gateway.ready, audit=Nowhere(), admission=Admission(PLACES))

    def started(port: int) -> None:
        certificate = gateway.identity.certificate.decode()
        found = {"port": port, "key": gateway.api_keys[0], "certificate": certificate}
        unseen = info.with_suffix(".new")
        unseen.write_text(json.dumps(found))
        unseen.rename(info)

    await serve(
        create_app(ready),
        Address("127.0.0.1", 0),
        identity=gateway.identity,
        clients=None,
        limits=ready.limits,
        admission=ready.admission,
        started=started,
        stop=stop,
        notice_seconds=0,
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], Path(sys.argv[2])))
