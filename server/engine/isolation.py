"""Which namespaces this machine grants to an engine, found by taking them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attestation.errors import ConfigError
from server.engine.launch import Launch
from server.engine.process import spawn
from server.hardening import Finding

_SECONDS = 20
_WANTED = (("net", "pid", "mount"), ("pid", "mount"), ("net", "mount"), ("mount",), ("net",))
"""Sets to try, best first. A PID namespace needs its own /proc, which needs a mount namespace."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The namespaces an engine runs in."""

    namespaces: frozenset[str]

    @property
    def complete(self) -> bool:
        """Whether the engine has its own network, processes and mounts."""
        return {"net", "pid", "mount"} <= self.namespaces

    @property
    def missing(self) -> tuple[str, ...]:
        """What the machine did not grant."""
        return tuple(sorted({"net", "pid", "mount"} - self.namespaces))


NONE = Isolation(frozenset())


async def probe(python: str) -> Isolation:
    """Return the best isolation that works here, tried with the bootstrap itself.

    `python` is the interpreter that would run the bootstrap. Whoever is not root gets a user
    namespace as well, in which it may make the others.
    """
    user = ("user",) if os.geteuid() != 0 else ()
    for wanted in _WANTED:
        isolation = Isolation(frozenset((*wanted, *user)))
        if await _granted(python, isolation):
            return isolation
    return NONE


def decide(found: Isolation, *, wanted: Literal["required", "best-effort"]) -> Isolation:
    """Return `found`, or raise `ConfigError` if settings require what is missing."""
    if wanted == "required" and not found.complete:
        raise ConfigError("engine-isolation", f"not granted here: {', '.join(found.missing)}")
    return found


def finding(found: Isolation) -> Finding:
    """Say in `tacit doctor`'s terms what `probe` found."""
    have, lack = ", ".join(sorted(found.namespaces)), ", ".join(found.missing)
    return Finding(
        "engine-isolated",
        found.complete,
        f"the engine gets its own {have}" if found.complete else f"not granted here: {lack}",
        required_in_production=True,
    )


async def _granted(python: str, isolation: Isolation) -> bool:
    with tempfile.TemporaryDirectory(prefix="tacit-probe-") as directory:
        scratch = Path(directory) / "scratch"
        scratch.mkdir(mode=0o700)
        trial = Launch(
            name="probe",
            python=python,
            argv=(python, "-I", "-S", "-c", "pass"),
            environment={},
            socket="",
            scratch=str(scratch),
            kept=(),
            hidden=(),
            covered=("/dev/shm",),  # noqa: S108 - covered, not used
        )
        process = await spawn(trial, isolation.namespaces)
        try:
            async with asyncio.timeout(_SECONDS):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
        return process.returncode == 0
