"""`tacit doctor [CONFIG]`: what this machine protects, what it lacks, and what production needs."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict
from pathlib import Path

from attestation.commands.files import Commands, add_json, show
from attestation.errors import ConfigError
from server.commands.plan import add_plan, run_plan
from server.hardening import Finding, harden, required
from server.settings import Settings


def register(commands: Commands) -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="say what this machine protects and what it lacks",
        description="Say which protections hold on this machine, each found by trying it. Exit 0"
        " when everything that production requires holds, 5 otherwise.",
    )
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG")
    parser.add_argument("--engine-python", type=Path, default=Path(sys.executable), metavar="PATH")
    add_plan(parser)
    add_json(parser)
    parser.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print the findings; 5 where production would refuse to serve."""
    if arguments.plan is not None:
        return run_plan(arguments)
    settings = Settings.load(arguments.config) if arguments.config else None
    pythons = _engine_pythons(arguments, settings)
    findings = [
        *harden(profile="simulated"),  # what lacks is said below, all of it
        _tdx(),
        *(found for python in pythons for found in asyncio.run(_engine(python))),
        *(_run_directory(settings) if settings else ()),
    ]
    lacking = [item for item in findings if item.required_in_production and not item.enforced]
    if arguments.json:
        show({"production": not lacking, "findings": [asdict(item) for item in findings]})
    else:
        for item in findings:
            mark = "ok " if item.enforced else "NO " if item.required_in_production else "no "
            print(f"{mark} {item.id:20} {item.detail}")
        ends = f"refuses: {len(lacking)} of it is missing" if lacking else "may serve here"
        print(f"\nprofile production {ends}")
    return 5 if lacking else 0


def _engine_pythons(arguments: argparse.Namespace, settings: Settings | None) -> list[str]:
    """Return each interpreter that would start an engine of CONFIG, or the one given."""
    if settings is None:
        return [str(arguments.engine_python.absolute())]
    engines = (model.engine for model in settings.file.models.values())
    return sorted({str(settings.path(engine.python).absolute()) for engine in engines})


def _tdx() -> Finding:
    from attestation.tdx.collect import TdxGuest

    try:
        TdxGuest.kernel()
    except ConfigError as error:
        return Finding("tdx-guest", enforced=False, detail=error.why, required_in_production=True)
    detail = "configfs-tsm, RTMR sysfs and CCEL are there"
    return Finding("tdx-guest", enforced=True, detail=detail, required_in_production=True)


async def _engine(python: str) -> tuple[Finding, ...]:
    """Start a process as an engine is started, and say what it was granted and what it saw."""
    from server.engine.isolation import finding, probe
    from server.engine.surroundings import surroundings

    found = await probe(python)
    return (finding(found), *await surroundings(python, found))


def _run_directory(settings: Settings) -> tuple[Finding, ...]:
    """Say whether what is unsealed, and each socket, would lie in memory."""
    from attestation.weights import is_memory_backed

    directory = settings.path(settings.file.run_directory)
    place = next(path for path in (directory, *directory.parents) if path.exists())
    backed = is_memory_backed(place)
    detail = f"{directory} lies in memory" if backed else f"{directory} lies on a disk"
    return (required("run-directory", backed, detail),)
