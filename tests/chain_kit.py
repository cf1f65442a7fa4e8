"""An installation per test: software TDX and broker in threads, `tacit serve` as a real process."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from attestation.broker.app import BrokerServer, open_broker
from attestation.broker.settings import BrokerSettings
from attestation.policy import Policy
from attestation.simulator import state
from attestation.simulator.gpus import SoftwareGpus
from attestation.simulator.gpus import load as load_board
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.tsm import SimulatedKernel
from scripts.chain.installation import MODEL, Installation, configure
from scripts.chain.processes import PYTHON, ROOT, TACIT
from scripts.chain.services import Chain

EXAMPLE = ROOT / "configs" / "simulated.yaml"
ENGINE = ROOT / ".venv-engine" / "bin" / "python"
_REFUSED = re.compile(r"^tacit: (\w+): (.*) \(([a-z0-9.-]+)\)$", re.MULTILINE)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one `tacit serve` ended."""

    status: int
    kind: str
    why: str
    code: str
    opened: bool
    """Whether its port ever accepted a connection."""
    output: str


class World:
    """An installation that a test may damage, and what runs around `tacit serve`."""

    def __init__(
        self,
        directory: Path,
        *,
        checkpoint: Path | Mapping[str, Path],
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Install `checkpoint`, or several by the names that `changes` serves them under."""
        self.changes = changes or {}
        """What differs from the example, beside what every test differs in."""
        self.port, self.broker_port = free_port(), free_port()
        self.directory = directory
        self.run_directory = Path(f"/dev/shm/tacit-test-{directory.name}-{self.port}")
        directory.mkdir(parents=True, exist_ok=True)
        config = configure(
            EXAMPLE, directory / "serve.yaml", state=directory, changes=self._settings()
        )
        self.installation = Installation(directory, config)
        models = {MODEL: checkpoint} if isinstance(checkpoint, Path) else checkpoint
        self.installation.prepare(models, broker_port=self.broker_port)

    def _settings(self) -> dict[str, Any]:
        return {
            "listen.port": self.port,
            "broker.url": f"https://127.0.0.1:{self.broker_port}",
            "broker.retry_seconds": 0,
            "run_directory": str(self.run_directory),
            f"models.{MODEL}.engine.python": str(ENGINE),
            f"models.{MODEL}.engine.max_model_len": 1024,
            **self.changes,
        }

    def fork(self, directory: Path) -> World:
        """Return a copy of this installation with ports and a run directory of its own."""
        shutil.copytree(self.directory, directory, ignore=shutil.ignore_patterns("broker.db*"))
        copy = object.__new__(World)
        copy.__dict__.update(self.__dict__)
        copy.port, copy.broker_port = free_port(), free_port()
        copy.directory = directory
        copy.run_directory = Path(f"/dev/shm/tacit-test-{directory.name}-{copy.port}")
        config = configure(
            EXAMPLE, directory / "serve.yaml", state=directory, changes=copy._settings()
        )
        copy.installation = Installation(directory, config)
        broker = yaml.safe_load(copy.installation.broker_config.read_text())
        broker["listen"]["port"] = copy.broker_port
        copy.installation.broker_config.write_text(yaml.safe_dump(broker))
        copy.installation.write_policy()
        return copy

    def edit_policy(self, find: str, replace: str) -> None:
        """Change the policy; the words to replace must be there."""
        text = self.installation.policy.read_text()
        assert re.search(find, text), find
        self.installation.policy.write_text(re.sub(find, replace, text, count=1))

    @contextlib.contextmanager
    def software_tdx(self, *, gpus: SoftwareGpus | None = None, **guest: Any) -> Iterator[None]:
        """Boot a software TD with these options and serve its interfaces, those of its GPUs too.

        `gpus` replaces the GPUs of the installation.
        """
        tdx = self.installation.tdx
        intel, board = state.load(tdx), load_board(tdx)
        assert board is not None
        kernel = SimulatedKernel(
            tdx,
            lambda: SoftwareGuest(intel, **guest),
            gpus=SoftwareGpus(tdx, board) if gpus is None else gpus,
        )
        kernel.boot()
        stop = threading.Event()
        thread = threading.Thread(target=kernel.serve, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def broker(self) -> Iterator[None]:
        """Serve the key broker of this installation."""
        settings = BrokerSettings.load(self.installation.broker_config)
        broker = open_broker(settings, clock=lambda: datetime.now(UTC))
        ready = threading.Event()
        server = BrokerServer(broker, settings, ready=lambda _: ready.set())
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert ready.wait(30), "the broker did not start"
            yield
        finally:
            server.should_exit = True
            thread.join()
            broker.store.close()

    def serve(self, *, seconds: float = 120) -> Outcome:
        """Run `tacit serve` to its end, watching its port; it must end by itself."""
        process = subprocess.Popen(
            [str(TACIT), "serve", str(self.installation.config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        opened = False
        ends = time.monotonic() + seconds
        try:
            while process.poll() is None:
                opened = opened or self.port_is_open()
                assert time.monotonic() < ends, "tacit serve neither served nor ended"
                time.sleep(0.05)
        finally:
            process.kill()
        output, _ = process.communicate()
        found = _REFUSED.search(output)
        kind, why, code = found.groups() if found else ("", "", "")
        return Outcome(process.returncode, kind, why, code, opened, output)

    def port_is_open(self) -> bool:
        """Try to connect to the API's port."""
        with socket.socket() as client:
            client.settimeout(0.2)
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def remove(self) -> None:
        """Remove what lies in memory."""
        shutil.rmtree(self.run_directory, ignore_errors=True)


class Service:
    """A whole chain of real processes, serving."""

    def __init__(self, world: World, chain: Chain) -> None:
        self.world = world
        self.chain = chain
        self.url = f"https://127.0.0.1:{world.port}"
        self.policy_file = world.installation.policy
        self.policy = Policy.load(self.policy_file.read_bytes(), name="policy.yaml")
        self.api_key = world.installation.api_key.read_text()

    @classmethod
    @contextlib.contextmanager
    def running(cls, world: World) -> Iterator[Service]:
        """Start the chain and stop it again, whatever happens in between."""
        with contextlib.ExitStack() as stack:
            stack.callback(world.remove)
            chain = Chain(world.installation, stack)
            chain.start(seconds=900)
            yield cls(world, chain)

    @property
    def output(self) -> str:
        """Everything the processes of the chain have printed."""
        return "".join(line for running in self.chain.services for line in running.output)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the chain; their children belong to them."""
        return tuple(running.process.pid for running in self.chain.services)

    @contextlib.contextmanager
    def logged(self, path: Path) -> Iterator[Path]:
        """Keep what the processes print in `path`, as a collector of logs would."""
        done = threading.Event()

        def copy() -> None:
            beside = path.with_suffix(".new")
            while not done.wait(0.1):
                beside.write_text(self.output)
                beside.replace(path)

        copying = threading.Thread(target=copy)
        copying.start()
        try:
            yield path
        finally:
            done.set()
            copying.join()


__all__ = [
    "ENGINE",
    "EXAMPLE",
    "MODEL",
    "PYTHON",
    "TACIT",
    "Outcome",
    "Service",
    "World",
    "free_port",
]
