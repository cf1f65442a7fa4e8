"""The `tacit` command: parse arguments, run one, turn a refusal into words and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from attestation.commands.files import Commands
from attestation.errors import ConfigError, Refusal

Register = Callable[[Commands], None]
Families = Callable[[], Iterable[Register]]
"""Imports commands when it is called, so that an interrupt during that has its exit code too."""

EXITS = """exit codes: 0 affirmed or done, 1 a bug, 2 configuration or usage, 3 malformed,
4 not authentic, 5 not affirmed by the policy, 6 could not be decided (never a pass),
130 interrupted, 141 nobody reads the output; files are written whole or not at all"""
_INTERRUPTED, _UNREAD = 130, 141
"""128 and SIGINT or SIGPIPE, as a shell tells of a program that died of them."""
_UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def run(argv: Sequence[str] | None, *, families: Families) -> int:
    """Run one command line; data goes to stdout, words to stderr.

    What could not be printed is no success, whatever the command found.
    """
    if sys.stdout is None:  # closed by who started this
        return _refused(ConfigError("output-unwritable", "standard output is closed"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv, families)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return _UNREAD
    except OSError as error:
        _give_up_output()
        why = f"standard output: {error.strerror}"
        return _refused(ConfigError("output-unwritable", why))


def _run(argv: Sequence[str] | None, families: Families) -> int:
    parser = argparse.ArgumentParser(
        prog="tacit",
        description="Serve Qwen3 from a confidential VM, and prove it before anyone trusts it.",
        epilog=EXITS,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for register in families():
        register(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (Refusal, ConfigError) as refusal:
        return _refused(refusal, as_json=getattr(arguments, "json", False))
    except Exception as error:  # the one place that may; the text could quote input
        if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
            raise  # files have names, and commands say what is wrong with theirs
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        _say(f"tacit: bug: {type(error).__name__} at {place}; please report it")
        return 1


def _refused(refusal: Refusal | ConfigError, *, as_json: bool = False) -> int:
    kind = type(refusal).__name__
    if as_json:
        answer = {
            "error": kind,
            "code": refusal.code,
            "why": refusal.why,
            "next": refusal.next_step,
        }
        print(json.dumps(answer))
    _say(f"tacit: {kind}: {refusal.why} ({refusal.code})\n  next: {refusal.next_step}")
    return refusal.exit_code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too
        print(text, file=sys.stderr)


def _give_up_output() -> None:
    """Let the interpreter end quietly, which tries once more to print what is left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the auditor's commands; `server.cli` adds those of the gateway."""
    return run(argv, families=_families)


def _families() -> Iterable[Register]:
    from attestation.commands import FAMILIES

    return FAMILIES


if __name__ == "__main__":
    sys.exit(main())
