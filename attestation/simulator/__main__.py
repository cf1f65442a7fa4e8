"""`python -m attestation.simulator`: make a software TDX, serve it, write the policy for it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from attestation.errors import ConfigError, Refusal
from attestation.simulator import gpus, state, tsm
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.nvidia import MockNvidia
from attestation.simulator.policy import policy_yaml
from attestation.types import Digest

BANNER = """\
========================== SIMULATED TDX ===========================
 Nothing here is confidential. This root proves nothing about any
 machine; production policies refuse it. For development and tests.
====================================================================
"""

EPILOG = """A start of `serve` is a fresh boot of the TD. A service that is started again needs a
fresh TD too, because RTMR3 only extends: run `boot` before it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; results on stdout, words on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m attestation.simulator", description=__doc__, epilog=EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, words in (
        ("new", _new, "make a trust root, keys and collateral in DIR"),
        ("gpus", _gpus, "put software GPUs of a mock NVIDIA into DIR, instead of any others"),
        ("serve", _serve, "boot a TD and serve its kernel interfaces in DIR until SIGTERM"),
        ("boot", _boot, "have the running simulator boot a fresh TD"),
        ("collateral", _collateral, "sign the collateral again, dated now"),
        ("policy", _policy, "print a policy that accepts exactly this TD"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("directory", type=Path, metavar="DIR")
        command.set_defaults(run=run)
        if name in {"new", "gpus"}:
            least = 0 if name == "new" else 1
            command.add_argument(
                "--gpus", type=int, default=least, metavar="N", help="software GPUs"
            )
            command.add_argument("--switches", type=int, choices=(0, 4), default=0, metavar="M")
            command.add_argument(
                "--architecture", choices=("hopper", "blackwell"), default="hopper"
            )
        if name == "policy":
            command.add_argument("--config", type=Digest.parse, required=True, metavar="DIGEST")
            command.add_argument(
                "--model", type=_model, action="append", required=True, metavar="NAME=DIGEST"
            )
    try:
        arguments = parser.parse_args(argv)
        arguments.run(arguments)
    except (ConfigError, Refusal) as refusal:
        print(f"{parser.prog}: {refusal.why} ({refusal.code})", file=sys.stderr)
        print(f"  next: {refusal.next_step}", file=sys.stderr)
        return refusal.exit_code
    return 0


def _new(arguments: argparse.Namespace) -> None:
    sys.stderr.write(BANNER)
    board = _board(arguments) if arguments.gpus or arguments.switches else None
    state.create(arguments.directory, now=datetime.now(UTC))
    if board is not None:
        _put(arguments.directory, board)
    for name in (state.ROOT, state.COLLATERAL):
        print(arguments.directory / name)


def _gpus(arguments: argparse.Namespace) -> None:
    _put(arguments.directory, _board(arguments))


def _board(arguments: argparse.Namespace) -> gpus.Board:
    nvidia = MockNvidia.generate(datetime.now(UTC))
    return gpus.Board(nvidia, arguments.gpus, arguments.switches, arguments.architecture)


def _put(directory: Path, board: gpus.Board) -> None:
    intel = state.load(directory)
    gpus.save(directory, board)
    state.write_collateral(directory, intel, now=datetime.now(UTC))
    for name in (gpus.DEVICE_ROOT, gpus.RIM_ROOT):
        print(directory / gpus.NVIDIA / name)


def _serve(arguments: argparse.Namespace) -> None:
    directory: Path = arguments.directory
    intel = state.load(directory)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tsm.exclusive(directory):
        sys.stderr.write(BANNER)
        board = gpus.load(directory)
        kernel = tsm.SimulatedKernel(
            directory,
            lambda: SoftwareGuest(intel),
            gpus=None if board is None else gpus.SoftwareGpus(directory, board),
        )
        kernel.boot()
        print(f"READY {directory}", flush=True)
        kernel.serve(stop)


def _boot(arguments: argparse.Namespace) -> None:
    tsm.request_boot(arguments.directory)


def _collateral(arguments: argparse.Namespace) -> None:
    intel = state.load(arguments.directory)
    print(state.write_collateral(arguments.directory, intel, now=datetime.now(UTC)))


def _policy(arguments: argparse.Namespace) -> None:
    intel = state.load(arguments.directory)
    text = policy_yaml(
        SoftwareGuest(intel).report,
        intel,
        config=arguments.config,
        models=dict(arguments.model),
        board=gpus.load(arguments.directory),
    )
    sys.stdout.buffer.write(text)


def _model(text: str) -> tuple[str, Digest]:
    name, _, digest = text.partition("=")
    return name, Digest.parse(digest)


if __name__ == "__main__":
    sys.exit(main())
