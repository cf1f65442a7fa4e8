"""Start the bootstrap of one engine: a `Launch` and its namespaces in, a child process out."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

from attestation.errors import ConfigError
from server.engine import enter
from server.engine.launch import Launch

_BOOTSTRAP = str(Path(enter.__file__).resolve())
READ_LIMIT = 64 * 1024
"""Bytes of the child's output held while nobody reads."""


async def spawn(launch: Launch, namespaces: frozenset[str]) -> Process:
    """Start `launch`; the kernel kills it when the calling thread ends.

    Raises `ConfigError` when the interpreter cannot be run.

    The plan goes through stdin: the environment in it seeds hashes, and command lines are public.
    """
    plan = {
        "parent": os.getpid(),
        "namespaces": sorted(namespaces),
        "hidden": launch.hidden,
        "covered": launch.covered,
        "kept": launch.kept,
        "scratch": launch.scratch,
        "argv": launch.argv,
        "environment": dict(launch.environment),
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *(launch.python, "-I", "-S", "-B", _BOOTSTRAP),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env={},
            cwd="/",
            limit=READ_LIMIT,
        )
    except OSError as error:
        raise ConfigError("engine-python", f"cannot be run: {error.strerror}") from None
    if process.stdin is None:
        raise RuntimeError("a child without a pipe")
    try:
        process.stdin.write(json.dumps(plan).encode())
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended already; its exit status says why
    process.stdin.close()
    return process
