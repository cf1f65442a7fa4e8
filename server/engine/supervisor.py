"""Own one engine: start it, wait until it answers, notice its end, and take its whole tree down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from attestation.errors import ConfigError, NotAuthentic, Undecidable
from server.engine.client import EngineClient
from server.engine.enter import NOT_ISOLATED
from server.engine.isolation import Isolation
from server.engine.launch import Launch
from server.engine.leftovers import (
    SHARED_MEMORY,
    SharedMemory,
    make_private,
    remove_socket,
    remove_tree,
)
from server.engine.output import Lines
from server.engine.process import READ_LIMIT, spawn

_POLL_SECONDS = 0.25
_KILL_SECONDS = 10
"""How long the bootstrap gets to end the tree before it is ended itself."""

log = logging.getLogger("tacit.engine")


class EngineSupervisor:
    """Runs `launch` once, in `isolation`; `files` are the names its output may mention."""

    def __init__(self, launch: Launch, *, isolation: Isolation, files: frozenset[str]) -> None:
        self._launch = launch
        self._isolation = isolation
        self._lines = Lines(files)
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._shared_memory = SharedMemory(SHARED_MEMORY, record=Path(f"{launch.scratch}.shm"))
        self._answered = False
        self._last_error = "nowhere it named"
        self.exited = asyncio.Event()
        """Set when the engine has ended, for whatever reason."""

    @property
    def pid(self) -> int:
        """The process that all processes of the engine descend from."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the engine runs. It may still be loading."""
        return self._process is not None and not self.exited.is_set()

    @property
    def _own_mounts(self) -> bool:
        return "mount" in self._isolation.namespaces

    async def start(self) -> None:
        """Start the engine; call it in a thread that lives as long as the engine may.

        Raises `ConfigError` when another engine answers on the socket or the interpreter cannot
        be run.
        """
        if self._process is not None:
            raise RuntimeError("an engine is started once")
        await self._clear_sockets()
        make_private(Path(self._launch.scratch))
        if not self._own_mounts:
            self._shared_memory.begin()
        self._process = await spawn(self._launch, self._isolation.namespaces)
        self._reading = asyncio.create_task(self._read(self._process))
        log.info("engine started", extra={"engine": self._launch.name, "pid": self.pid})

    async def wait_ready(self, *, seconds: float, refusal: Callable[[], str | None]) -> None:
        """Return when the engine answers `GET /health` with 200.

        `refusal` returns the code with which a worker of the engine refused to load, if one did;
        it is raised as `NotAuthentic`. Raises `ConfigError` when the engine ends, `Undecidable`
        when it does not answer within `seconds`.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        client = EngineClient(self._launch.socket)
        while not await client.healthy():
            if (code := refusal()) is not None:
                raise NotAuthentic(code, f"the engine of {self._launch.name} did not load")
            if self.exited.is_set():
                raise self._failure()
            if loop.time() > ends:
                raise Undecidable("engine-slow", f"no answer within {seconds:.0f} seconds")
            await asyncio.sleep(_POLL_SECONDS)
        self._answered = True
        log.info("engine ready", extra={"engine": self._launch.name})

    async def stop(self, *, drain_seconds: float) -> None:
        """Let open streams finish for `drain_seconds`, then end every process and clean up.

        An engine that never answered has nothing to finish and is ended at once.
        """
        process = self._running()
        if self._answered:
            await self._signal(process, signal.SIGTERM, patience=drain_seconds)
        await self._signal(process, signal.SIGINT, patience=_KILL_SECONDS)
        if not self.exited.is_set():
            log.error("engine killed", extra={"engine": self._launch.name})
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self.exited.wait()
        if self._reading is not None:
            await self._reading
        self._clean()

    async def _signal(self, process: Process, number: signal.Signals, *, patience: float) -> None:
        if self.exited.is_set():
            return
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.send_signal(number)
            async with asyncio.timeout(patience):
                await self.exited.wait()

    async def _read(self, process: Process) -> None:
        if process.stdout is None:
            raise RuntimeError("a child without a pipe")
        ended = asyncio.create_task(self._notice_exit(process))
        while data := await process.stdout.read(READ_LIMIT):
            for site in self._lines.feed(data):
                if site.level in {"ERROR", "CRITICAL"}:
                    self._last_error = site.place
                log.info(
                    "engine said",
                    extra={
                        "engine": self._launch.name,
                        "engine_level": site.level,
                        "place": site.place,
                    },
                )
        await ended

    async def _notice_exit(self, process: Process) -> None:
        status = await process.wait()
        self.exited.set()
        log.warning(
            "engine ended",
            extra={
                "engine": self._launch.name,
                "status": status,
                "place": self._last_error,
                "withheld": self._lines.unread,
            },
        )

    def _failure(self) -> ConfigError:
        status = self._running().returncode
        if status == NOT_ISOLATED:
            return ConfigError("engine-isolation", f"could not be set up, at {self._last_error}")
        return ConfigError(
            "engine-exited",
            f"{self._launch.name}: status {status}, last error at {self._last_error}",
        )

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("the engine was not started")
        return self._process

    async def _clear_sockets(self) -> None:
        """Remove what a gateway that was killed left; refuse while something still answers."""
        if await EngineClient(self._launch.socket).healthy():
            raise ConfigError("engine-orphan", "another engine answers on this socket")
        remove_socket(Path(self._launch.socket))

    def _clean(self) -> None:
        remove_socket(Path(self._launch.socket))
        remove_tree(Path(self._launch.scratch))
        if not self._own_mounts:
            self._shared_memory.end()
