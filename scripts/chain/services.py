"""The three services of an installation, started in order and stopped in reverse."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from scripts.chain.installation import Installation
from scripts.chain.processes import PYTHON, TACIT, Failed, Running, started


@dataclass(slots=True)
class Chain:
    """Software TDX, broker and gateway; `stack` ends whatever was started."""

    installation: Installation
    stack: ExitStack
    services: list[Running] = field(default_factory=list)

    def start(self, *, seconds: float) -> None:
        """Start each once the one before is ready; the gateway gets `seconds`."""
        self.tdx()
        self.broker()
        self.gateway().wait_ready(seconds=seconds)

    def tdx(self) -> Running:
        """Boot a fresh software TD."""
        words = ["-m", "attestation.simulator", "serve", self.installation.tdx]
        running = self._start("tdx", [PYTHON, *words], sign="READY")
        running.wait_ready(seconds=60)
        return running

    def broker(self) -> Running:
        """Start the key broker."""
        words = ["broker", self.installation.broker_config]
        running = self._start("broker", [TACIT, *words], sign="tacit broker: ready")
        running.wait_ready(seconds=60)
        return running

    def gateway(self) -> Running:
        """Start the gateway; it is not ready when this returns."""
        words = ["serve", self.installation.config]
        return self._start("serve", [TACIT, *words], sign="tacit: ready on")

    def wait(self) -> None:
        """Return never; raise `Failed` when a service ends by itself."""
        while True:
            for running in self.services:
                if running.ended:
                    raise Failed(f"{running.name} ended with status {running.process.returncode}")
            time.sleep(0.2)

    def _start(self, name: str, command: list[object], *, sign: str) -> Running:
        running = self.stack.enter_context(started(name, command, sign=sign))
        self.services.append(running)
        return running
