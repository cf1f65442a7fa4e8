"""`tacit doctor [CONFIG]`: what this machine protects, what it lacks, and what production needs."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path

from attestation.commands.files import Commands, add_json, show
from attestation.errors import ConfigError
from server.commands.plan import add_plan, run_plan
from server.hardening import (
    Finding,
    environment_findings,
    limit_core_dumps,
    machine_findings,
    process_findings,
)


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
    limit_core_dumps()
    findings = [
        *environment_findings(os.environ),
        *process_findings(),
        *machine_findings(Path("/proc")),
        _tdx(),
        asyncio.run(_isolation(_engine_python(arguments))),
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


def _engine_python(arguments: argparse.Namespace) -> str:
    """Return the interpreter that would start the engine of CONFIG, or the one given."""
    if arguments.config is None:
        return str(arguments.engine_python.absolute())
    from server.settings import Settings

    settings = Settings.load(arguments.config)
    model = next(iter(settings.file.models.values()))
    return str(settings.path(model.engine.python).absolute())


def _tdx() -> Finding:
    from attestation.tdx.collect import TdxGuest

    try:
        TdxGuest.kernel()
    except ConfigError as error:
        return Finding("tdx-guest", enforced=False, detail=error.why, required_in_production=True)
    detail = "configfs-tsm, RTMR sysfs and CCEL are there"
    return Finding("tdx-guest", enforced=True, detail=detail, required_in_production=True)


async def _isolation(python: str) -> Finding:
    from server.engine.isolation import probe

    try:
        found = await probe(python)
    except OSError as error:
        detail = f"{python}: {error.strerror}"
        return Finding(
            "engine-isolation", enforced=False, detail=detail, required_in_production=True
        )
    granted = ", ".join(sorted(found.namespaces)) or "none"
    return Finding(
        "engine-isolation",
        enforced=found.complete,
        detail=f"namespaces granted: {granted}",
        required_in_production=True,
    )
