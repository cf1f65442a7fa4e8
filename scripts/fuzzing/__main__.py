"""`scripts/fuzz`: each parser in a process of its own, its corpus kept, a table at the end."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from tests.parsers import Parser, parsers

KEPT = Path(".tacit/fuzz")
_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1")
"""Seconds for one input, and memory in all: what hangs or grows is a finding as well."""
_EXECUTED = re.compile(r"stat::number_of_executed_units: +(\d+)")


def main() -> int:
    """Fuzz the parsers that are named, or all; exit 1 when one did more than refuse."""
    known = parsers()
    command = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    command.add_argument("parser", nargs="*", help=f"one of: {', '.join(known)}")
    command.add_argument("--seconds", type=int, default=60, help="for each parser (default: 60)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = command.parse_args()
    if unknown := set(arguments.parser) - set(known):
        command.error(f"no parser is called {', '.join(sorted(unknown))}")
    names = arguments.parser or list(known)
    rows = [_fuzz(name, known[name], seconds=arguments.seconds) for name in tqdm(names, unit="")]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(
                f"{row['parser']:22} {row['inputs']:>9} inputs  {row['found'] or 'only refusals'}"
            )
    return int(any(row["found"] for row in rows))


def _fuzz(name: str, parser: Parser, *, seconds: int) -> dict[str, str | int]:
    corpus = KEPT / name.replace(" ", "-").replace("'", "")
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "seed").write_bytes(parser.seed)
    options = (
        *(str(corpus), f"-max_total_time={seconds}", f"-max_len={2 * len(parser.seed) + 4096}"),
        *(f"-artifact_prefix={KEPT}/found-{corpus.name}-", *_LIMITS),
    )
    done = subprocess.run(
        [sys.executable, "-m", "scripts.fuzzing.one", name, *options],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    executed = _EXECUTED.search(done.stderr)
    found = ""
    if done.returncode != 0:
        (KEPT / f"found-{corpus.name}.txt").write_text(done.stderr)
        found = f"exit {done.returncode}: see {KEPT}/found-{corpus.name}.txt"
    return {"parser": name, "inputs": int(executed[1]) if executed else 0, "found": found}


if __name__ == "__main__":
    sys.exit(main())
