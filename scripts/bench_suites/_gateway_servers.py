"""Two servers of one model: the whole chain of Tacit, and vLLM's own server beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from attestation.client import RelyingParty
from attestation.policy import Policy
from scripts.bench_suites._streams import Target
from scripts.chain.installation import MODEL, Installation, configure
from scripts.chain.processes import ROOT, show
from scripts.chain.services import Chain
from server.engine.launch import MODULE

ENGINE = ROOT / ".venv-engine" / "bin" / "python"
_EXAMPLE = ROOT / "configs" / "simulated.yaml"
_START_SECONDS = 900
_OURS = ("--uds", "--model", "--load-format", "--model-loader-extra-config", "--middleware")
"""Flags of our engine, each with a value, that say where it answers and how it loads."""


def checkpoint(directory: Path) -> Path:
    """Return a model below `directory` with the demonstration model's tokenizer."""
    demo, model = ROOT / ".tacit" / "models" / MODEL, directory / "model"
    show([ROOT / "scripts/demo-model", demo])
    show([ENGINE, "-m", "scripts.bench_suites._model", demo, model])
    return model


@contextlib.contextmanager
def tacit(directory: Path, model: Path, *, streams: int) -> Iterator[tuple[Target, list[str]]]:
    """Serve `model` with the whole chain; give its endpoint, and its engine's command line."""
    port, broker_port = _free_port(), _free_port()
    run_directory = Path(f"/dev/shm/tacit-bench-{port}")  # noqa: S108 - memory-backed, 0700
    changes = {
        "listen.port": port,
        "broker.url": f"https://127.0.0.1:{broker_port}",
        "run_directory": str(run_directory),
        f"models.{MODEL}.engine.python": str(ENGINE),
        f"models.{MODEL}.engine.max_sequences": streams,
    }
    directory.mkdir()
    config = configure(_EXAMPLE, directory / "serve.yaml", state=directory, changes=changes)
    installation = Installation(directory, config)
    installation.prepare({MODEL: model}, broker_port=broker_port)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, run_directory, ignore_errors=True)
        Chain(installation, stack).start(seconds=_START_SECONDS)
        url = f"https://127.0.0.1:{port}"
        policy = Policy.load(installation.policy.read_bytes(), name=installation.policy.name)
        session = RelyingParty(url, policy).attest()
        key = installation.api_key.read_text()
        yield Target(url, MODEL, api_key=key, trust=session.tls), _command_line(run_directory)


@contextlib.contextmanager
def bare(directory: Path, model: Path, *, line: Sequence[str]) -> Iterator[Target]:
    """Serve `model` with vLLM's own server on a port of loopback, as the engine of `line` is run.

    Of `line` only the flags in `_OURS` are left out, and our plug-in is not loaded.
    """
    directory.mkdir()
    port = _free_port()
    command = [*_without(line, _OURS), "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env=_environment(directory),
        cwd=directory,
        stdout=sys.stderr,
        stderr=sys.stderr,
        start_new_session=True,  # as our engine: the kernel shares processors among sessions
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health")
        yield Target(f"http://127.0.0.1:{port}", MODEL)
    finally:
        process.terminate()
        process.wait(60)


def _without(line: Sequence[str], flags: Sequence[str]) -> list[str]:
    kept, words = [], iter(line)
    for word in words:
        if word in flags:
            next(words)
        else:
            kept.append(word)
    return kept


def _command_line(run_directory: Path) -> list[str]:
    """Return the command line of the engine below `run_directory`, as the kernel has it."""
    below = f"{run_directory}/"
    for entry in sorted(Path("/proc").glob("[0-9]*/cmdline")):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode().split("\0")[:-1]
            if MODULE in words and any(word.startswith(below) for word in words):
                return words
    raise RuntimeError("the engine of this chain was not found")


def _environment(directory: Path) -> dict[str, str]:
    return {
        "PATH": f"{ENGINE.parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "VLLM_PLUGINS": "",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with status {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.5)
    raise RuntimeError("vLLM did not answer in time")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
