"""Ten thousand requests, some of them abandoned, leave a gateway as large as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
import uvloop

from scripts.chain.processes import ROOT
from tests.gateway_kit import chat
from tests.gateway_process import PLACES

pytestmark = pytest.mark.slow

REQUESTS = 10_000
STREAMS = 32
GROWTH = 4 * 1024 * 1024
"""Bytes that the allocator may keep of the largest moment."""


@pytest.fixture
def processes(tmp_path):
    """Start the engine that computes nothing and the gateway before it."""
    socket, info = tmp_path / "engine.sock", tmp_path / "info.json"
    with contextlib.ExitStack() as stack:
        for words in (
            [ROOT / "tests" / "null_engine.py", socket],
            ["-m", "tests.gateway_process", socket, info],
        ):
            process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        while not info.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process.pid, json.loads(info.read_text())


def resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def load(info: dict, requests: int) -> int:
    """Send `requests`, every tenth of which hangs up early; return how many were answered."""
    trust = ssl.create_default_context(cadata=info["certificate"])
    waiting, whole = iter(range(requests)), 0
    async with aiohttp.ClientSession(
        f"https://127.0.0.1:{info['port']}",
        connector=aiohttp.TCPConnector(limit=0, ssl=trust),
        headers={"authorization": f"Bearer {info['key']}"},
    ) as session:

        async def one() -> None:
            nonlocal whole
            for number in waiting:
                body = chat(stream=number % 2 == 0, max_tokens=16)
                async with session.post("/v1/chat/completions", json=body) as response:
                    assert response.status == 200
                    if number % 10 == 0:
                        await response.content.readany()
                        response.close()
                        continue
                    text = await response.read()
                    assert text.endswith(b"data: [DONE]\n\n") or json.loads(text)["usage"]
                    whole += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(one())
    return whole


def test_memory_and_descriptors_are_flat_over_ten_thousand_requests(processes):
    pid, info = processes
    assert STREAMS <= PLACES
    uvloop.run(load(info, REQUESTS // 5))  # what an interpreter and its caches come to
    time.sleep(2)
    before = resident(pid), descriptors(pid)
    assert uvloop.run(load(info, REQUESTS)) == REQUESTS * 9 // 10
    time.sleep(2)
    after = resident(pid), descriptors(pid)
    print(f"resident {before[0] >> 10} KiB, then {after[0] >> 10} KiB")
    assert after[0] - before[0] < GROWTH
    assert after[1] <= before[1]
