"""A software TDX for tests: one mock Intel a process, and its kernel interfaces in a thread."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.tsm import SimulatedKernel

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@cache
def mock_intel() -> MockIntel:
    """Return the hierarchy all tests of this process share, created at `NOW`."""
    return MockIntel.generate(NOW)


@contextlib.contextmanager
def serving(kernel: SimulatedKernel) -> Iterator[SimulatedKernel]:
    """Boot `kernel` and poll it in a thread until the block ends."""
    kernel.boot()
    stop = threading.Event()
    thread = threading.Thread(target=kernel.serve, args=(stop,))
    thread.start()
    try:
        yield kernel
    finally:
        stop.set()
        thread.join()


def kernel_of(directory: Path, **guest) -> SimulatedKernel:
    """Return a kernel whose every boot launches a guest with these options."""
    return SimulatedKernel(directory, lambda: SoftwareGuest(mock_intel(), **guest))
