"""An isolation in, what a process started as engines are finds around itself out, as findings."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from server.engine.isolation import Isolation
from server.engine.launch import EngineSpec, MountedWeights, environment, launch
from server.engine.process import spawn
from server.engine.tasks import Generating
from server.hardening import Finding, required

_SECONDS = 20
_LOOK = """
import json, os, resource
def text(path):
    with open(path) as file:
        return file.read()
status = dict(line.split(":", 1) for line in text("/proc/self/status").splitlines())
mounts = [line.split(" - ") for line in text("/proc/self/mountinfo").splitlines()]
print(json.dumps({
    "environment": dict(os.environ),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "capabilities": status["CapEff"].strip() + status["CapBnd"].strip(),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "umask": status["Umask"].strip(),
    "devices": [line.split(":")[0].strip() for line in text("/proc/net/dev").splitlines()[2:]],
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "memory": sorted({own.split()[4] for own, rest in mounts if rest.split()[0] == "tmpfs"}),
    "shared": os.listdir("/dev/shm"),
}))
"""
_SILENT: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""What keeps vLLM and its libraries from reporting to anybody."""
_WRITES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "VLLM_RPC_BASE_PATH")
"""Variables that say where an engine writes; its ZeroMQ sockets lie in the last."""
_MOST_PROCESSES = 3
"""Bootstrap, engine, and the process that looks."""


async def surroundings(python: str, isolation: Isolation) -> tuple[Finding, ...]:
    """Start a process exactly as an engine is started, and say what it found.

    Raises `ConfigError` when `python` cannot be run; one that is silent yields failed findings.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-doctor-") as directory:
        spec = _spec(python, PurePosixPath(directory))
        _make(spec)
        trial = replace(launch(spec), argv=(python, "-I", "-S", "-c", _LOOK))
        process = await spawn(trial, isolation.namespaces)
        try:
            async with asyncio.timeout(_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            output = b""
        if process.returncode != 0 or not output:
            return tuple(_failed(name) for name in _NAMES)
        return tuple(_judge(json.loads(output), spec))


def _judge(seen: Mapping[str, Any], spec: EngineSpec) -> Iterator[Finding]:
    wanted = environment(spec)
    scratch = str(spec.scratch)
    shared, memory = len(seen["shared"]), set(seen["memory"])
    places = [seen["environment"].get(name, "") for name in _WRITES]
    strange = seen["environment"].keys() - wanted.keys() - {"LC_CTYPE"}  # Python's own, PEP 538
    talking = sorted(n for n, value in _SILENT.items() if seen["environment"].get(n) != value)
    yield required(
        "engine-environment",
        not strange,
        f"{len(seen['environment'])} variables, {len(strange)} of them not ours",
    )
    yield required(
        "engine-silent",
        not talking,
        f"not set: {', '.join(talking)}" if talking else "usage statistics and telemetry are off",
    )
    yield required(
        "engine-no-network",
        seen["devices"] == ["lo"],
        "a loopback device of its own and no other"
        if seen["devices"] == ["lo"]
        else f"{len(seen['devices'])} network devices are within reach",
    )
    yield required(
        "engine-tmp-private",
        scratch in memory and all(place.startswith(scratch) for place in places),
        "home, temporary files, caches and ZeroMQ sockets lie in a tmpfs of its own"
        if scratch in memory
        else "home, temporary files and ZeroMQ sockets lie where other processes reach them",
    )
    yield required(
        "engine-shm-private",
        "/dev/shm" in memory and not shared,  # noqa: S108
        f"shared memory of its own: {shared} segments of others are visible",
    )
    yield required(
        "engine-sees-itself",
        seen["processes"] <= _MOST_PROCESSES,
        f"{seen['processes']} processes are visible",
    )
    yield required(
        "engine-no-privileges",
        int(seen["capabilities"], 16) == 0 and seen["no_new_privileges"] == "1",
        f"capabilities {seen['capabilities']}, no_new_privs {seen['no_new_privileges']}",
    )
    yield required(
        "engine-no-core-dumps",
        0 <= seen["core"] <= 1 and int(seen["umask"], 8) == 0o077,
        f"core limit {seen['core']} bytes, umask {seen['umask']}",
    )


_NAMES = (
    "engine-environment",
    "engine-silent",
    "engine-no-network",
    "engine-tmp-private",
    "engine-shm-private",
    "engine-sees-itself",
    "engine-no-privileges",
    "engine-no-core-dumps",
)


def _failed(name: str) -> Finding:
    return required(name, False, "a process could not be started as an engine is")


def _make(spec: EngineSpec) -> None:
    for path in (spec.directory, spec.scratch):
        Path(path).mkdir(mode=0o700)


def _spec(python: str, directory: PurePosixPath) -> EngineSpec:
    return EngineSpec(
        python=PurePosixPath(python),
        name="doctor",
        directory=directory / "engine-0",
        weights=MountedWeights(PurePosixPath(python).parent),
        device="cpu",
        dtype="bfloat16",
        max_model_len=256,
        max_sequences=1,
        max_queued=1,
        tensor_parallel_size=1,
        kv_cache_gib=1,
        work=Generating(reasoning=False, tool_call_parser="hermes"),
        hash_seed=0,
        run_directory=directory,
    )
