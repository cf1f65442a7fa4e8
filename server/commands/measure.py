"""`tacit measure CONFIG`: what a guest with this configuration will measure, for its policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from attestation.commands.files import Commands, add_json, show


def register(commands: Commands) -> None:
    """Add `measure`."""
    parser = commands.add_parser(
        "measure",
        help="print the digests a guest with CONFIG measures",
        description="Print the digests of CONFIG and of its models' signed manifests: what the"
        " guest extends RTMR3 with, and what a policy names under `runtime`.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG")
    add_json(parser)
    parser.set_defaults(run=run_measure)


def run_measure(arguments: argparse.Namespace) -> int:
    """Print digests; raises the refusals a boot would raise for the same files."""
    from server.packages import open_packages
    from server.settings import Settings

    settings = Settings.load(arguments.config)
    models = {
        name: str(package.manifest.digest) for name, package in open_packages(settings).items()
    }
    if arguments.json:
        show({"config": str(settings.digest), "models": models})
        return 0
    print(f"config {settings.digest}")
    for name, digest in models.items():
        print(f"model {name} {digest}")
    return 0
