"""The engine of a running service, asked past the gateway: its socket, and what the kernel says."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import httpx2

from tests.chain_kit import World


def client(world: World) -> httpx2.Client:
    """Return a client of the engine's own socket, which only this user reaches."""
    socket = world.run_directory / "engine-0" / "engine.sock"
    transport = httpx2.HTTPTransport(uds=str(socket))
    return httpx2.Client(transport=transport, base_url="http://engine", timeout=60)


def counter(world: World, name: str) -> float:
    """Return the value of one of vLLM's counters, summed over its labels."""
    with client(world) as engine:
        text = engine.get("/metrics").text
    found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def process(world: World) -> Path:
    """Return the directory in /proc of vLLM's API server."""
    below = f"{world.run_directory}/engine-0/engine.sock".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"--uds" in words and below in words:
                return entry
    raise AssertionError("no engine of this service runs")
