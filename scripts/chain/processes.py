"""Start and stop the processes of the chain; whatever happens, none of them is left behind."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv/bin/python"
TACIT = ROOT / ".venv/bin/tacit"
STOP_SECONDS = 60


class Failed(Exception):
    """A process of the chain ended, or did not get ready."""


@dataclass(slots=True)
class Running:
    """A child, its output shown with its name in front, and what it last said."""

    name: str
    process: subprocess.Popen[str]
    ready: threading.Event
    reader: threading.Thread
    output: list[str]
    """Every line it printed."""

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    def wait_ready(self, *, seconds: float) -> None:
        """Return once the child said it is ready, or raise `Failed`."""
        ends = time.monotonic() + seconds
        while not self.ready.wait(0.1):
            if self.ended:
                self.reader.join()
                raise Failed(f"{self.name} ended with status {self.process.returncode}")
            if time.monotonic() > ends:
                raise Failed(f"{self.name} was not ready within {seconds:.0f} s")

    def stop(self) -> None:
        """Ask the child to end, and end it if it does not."""
        if not self.ended:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        if not self.ended:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def started(name: str, command: Sequence[object], *, sign: str) -> Iterator[Running]:
    """Run `command` for as long as the block; it is ready when it prints a line with `sign`."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C is ours to pass on, in order
    )
    ready = threading.Event()
    output: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            output.append(line)
            if sign in line:
                ready.set()
            if not line.startswith("{"):  # structured lines are for machines: see `output`
                print(f"  {name:6} | {line}", end="", file=sys.stderr, flush=True)

    reader = threading.Thread(target=read)
    reader.start()
    running = Running(name, process, ready, reader, output)
    try:
        yield running
    finally:
        running.stop()


def run(command: Sequence[object], *, stdin: bytes = b"") -> str:
    """Run `command` to its end and return what it printed, or raise `Failed` with its words."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise Failed(f"{' '.join(words[:3])} ended with status {done.returncode}\n{said}")
    return done.stdout.decode()


def call(main: Callable[[list[str]], int], words: Sequence[object]) -> str:
    """Run a command line of ours in this process, which saves a start of Python; like `run`."""
    printed, said = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    line = [str(word) for word in words]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = main(line)
    printed.flush()
    if status != 0:
        raise Failed(f"{' '.join(line[:2])} ended with status {status}\n{said.getvalue()}")
    return printed.buffer.getvalue().decode()


def show(command: Sequence[object]) -> None:
    """Run `command` on this terminal, or raise `Failed` with its status."""
    words = [str(word) for word in command]
    status = subprocess.run(words, check=False).returncode
    if status != 0:
        raise Failed(f"{' '.join(words[:3])} ended with status {status}")
