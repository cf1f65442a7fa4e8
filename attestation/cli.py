"""The `tacit` command: parse arguments, run one, turn a refusal into words and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from attestation.commands.files import Commands
from attestation.errors import ConfigError, Refusal

Register = Callable[[Commands], None]

EXITS = """exit codes: 0 affirmed or done, 1 a bug, 2 configuration or usage, 3 malformed,
4 not authentic, 5 not affirmed by the policy, 6 could not be decided (never a pass)"""


def run(argv: Sequence[str] | None, *, families: Sequence[Register]) -> int:
    """Run one command line; data goes to stdout, words to stderr."""
    parser = argparse.ArgumentParser(
        prog="tacit",
        description="Serve Qwen3 from a confidential VM, and prove it before anyone trusts it.",
        epilog=EXITS,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for register in families:
        register(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (Refusal, ConfigError) as refusal:
        _say(refusal, as_json=getattr(arguments, "json", False))
        return refusal.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - the one place that may; the text could quote input
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        print(f"tacit: bug: {type(error).__name__} at {place}; please report it", file=sys.stderr)
        return 1


def _say(refusal: Refusal | ConfigError, *, as_json: bool) -> None:
    kind = type(refusal).__name__
    if as_json:
        answer = {
            "error": kind,
            "code": refusal.code,
            "why": refusal.why,
            "next": refusal.next_step,
        }
        print(json.dumps(answer))
    print(f"tacit: {kind}: {refusal.why} ({refusal.code})", file=sys.stderr)
    print(f"  next: {refusal.next_step}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the auditor's commands; `server.cli` adds those of the gateway."""
    from attestation.commands import FAMILIES  # imported here so that --help stays quick

    return run(argv, families=FAMILIES)


if __name__ == "__main__":
    sys.exit(main())
