"""Engines under test: the fake one, started by the production supervisor and bootstrap."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from attestation.confidential import Confidential
from server.engine.client import EngineClient
from server.engine.isolation import Isolation
from server.engine.launch import Launch
from server.engine.supervisor import EngineSupervisor

FAKE = Path(__file__).with_name("fake_engine.py")
FILES = frozenset({"fake_engine.py", "enter.py"})
COMPLETE = Isolation(frozenset({"net", "pid", "mount"} | ({"user"} if os.geteuid() else set())))
NONE = Isolation(frozenset())


def fake_launch(directory: Path, mode: str = "serve", *, hidden=(), look_at=()) -> Launch:
    """Launch the fake engine in `directory`, which holds its sockets and scratch space."""
    python = str(Path(sys.executable).resolve())
    socket = str(directory / "engine.sock")
    return Launch(
        name="fake",
        python=python,
        argv=(python, "-I", str(FAKE), socket, mode, *map(str, look_at)),
        environment={"ONLY": "this"},
        socket=socket,
        scratch=str(directory / "scratch"),
        kept=(str(directory),),
        hidden=tuple(map(str, hidden)),
        covered=("/dev/shm", str(directory.parent)),
    )


def supervised(launch: Launch, isolation: Isolation = COMPLETE) -> EngineSupervisor:
    return EngineSupervisor(launch, isolation=isolation, files=FILES)


async def ready(supervisor: EngineSupervisor) -> None:
    await supervisor.start()
    await supervisor.wait_ready(seconds=20, refusal=lambda: None)


async def surroundings(launch: Launch) -> dict:
    import json

    answer = await EngineClient(launch.socket).call("/where", Confidential(b"{}"))
    return json.loads(answer.body.reveal())


def descendants(pid: int) -> set[int]:
    """Return every process below `pid`."""
    found = set()
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        for task in tasks:
            for child in (task / "children").read_text().split():
                found |= {int(child)} | descendants(int(child))
    except OSError:
        pass
    return found


async def grown(supervisor: EngineSupervisor, count: int) -> set[int]:
    """Wait until `count` processes run below the supervised one; return them."""
    for _ in range(400):
        if len(tree := descendants(supervisor.pid)) >= count:
            return tree
        await asyncio.sleep(0.05)
    raise AssertionError(f"fewer than {count} processes after 20 seconds")


def running(pids: set[int]) -> set[int]:
    """Return those of `pids` that still run (a zombie does not)."""
    alive = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            alive.add(pid)
    return alive


async def gone(pids: set[int], seconds: float = 5) -> bool:
    """Wait until none of `pids` runs."""
    for _ in range(int(seconds / 0.05)):
        if not running(pids):
            return True
        await asyncio.sleep(0.05)
    return False
