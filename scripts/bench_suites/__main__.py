"""Run the named benchmark suites, or all of them, and print a table, or JSON with `--json FILE`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

from scripts import bench_suites
from scripts.bench_suites._row import Row


def names() -> list[str]:
    """Return the suites: every module of the package whose name has no underscore in front."""
    found = (module.name for module in pkgutil.iter_modules(bench_suites.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def main() -> int:
    """Run suites; exit 1 when one of them broke a promise that this machine can keep."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("suite", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args()
    unknown = set(arguments.suite) - set(names())
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    kept, documents = True, []
    for name in arguments.suite or names():
        suite = importlib.import_module(f"scripts.bench_suites.{name}")
        print(f"{name}: {(suite.__doc__ or '').splitlines()[0]}")
        for row in suite.rows():
            print(line(row), flush=True)
            kept = kept and not row.broken
            documents.append(document(name, row))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(documents, indent=2) + "\n")
    return 0 if kept else 1


def line(row: Row) -> str:
    """Return a row of the table."""
    promise = "" if row.at_most is None else f"  promised {row.at_most:g}"
    missed = "" if row.kept else "  BROKEN" if row.broken else "  OUT OF REACH HERE"
    if row.floor is not None:
        promise = f" (its steps alone {row.floor / row.peer:.2f}){promise}"
    times = f"{_time(row.ours):>10}  {row.peer_name} {_time(row.peer)}"
    return f"  {row.what:<44} {times}  ratio {row.ratio:.2f}{promise}{missed}"


def document(suite: str, row: Row) -> dict[str, object]:
    """Return a row as JSON; times are seconds."""
    return {
        "suite": suite,
        "what": row.what,
        "seconds": row.ours,
        "peer": row.peer_name,
        "peer_seconds": row.peer,
        "ratio": round(row.ratio, 3),
        "at_most": row.at_most,
        "floor_seconds": row.floor,
        "kept": row.kept,
        "reachable": row.reachable,
    }


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.0f} us"


if __name__ == "__main__":
    sys.exit(main())
