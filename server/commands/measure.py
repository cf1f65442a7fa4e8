"""`tacit measure CONFIG`: what a guest with it measures, and what of that a policy lacks."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attestation.commands.files import Commands, add_json, add_policy_signer, load_policy, show
from attestation.errors import ConfigError
from attestation.types import Digest
from server.approval import Unapproved, unapproved
from server.settings import Settings


def register(commands: Commands) -> None:
    """Add `measure`."""
    parser = commands.add_parser(
        "measure",
        help="print the digests a guest with CONFIG measures",
        description="Print the digests of CONFIG and of its models' signed manifests: what the"
        " guest extends RTMR3 with, and what a policy names under `runtime`. With --policy, say"
        " what the policy lacks, and exit 5 where it lacks anything: before an update, not after.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="where a model's package lies here, when CONFIG names a place in the guest",
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="what must approve the guest")
    add_policy_signer(parser)
    add_json(parser)
    parser.set_defaults(run=run_measure)


def run_measure(arguments: argparse.Namespace) -> int:
    """Print digests, and 5 where a policy lacks one; raises what a boot would raise."""
    from server.packages import open_packages

    settings = Settings.load(arguments.config)
    places = _places(arguments.package, settings)
    packages = open_packages(settings, places=places)
    models = {name: package.manifest.digest for name, package in packages.items()}
    missing = _missing(arguments, settings, models)
    if arguments.json:
        digests = {name: str(digest) for name, digest in models.items()}
        told: dict[str, Any] = {"config": str(settings.digest), "models": digests}
        if missing is not None:
            told["missing"] = [asdict(item) for item in missing]
        show(told)
        return 5 if missing else 0
    print(f"config {settings.digest}")
    for name, digest in models.items():
        print(f"model {name} {digest}")
    for item in missing or ():
        print(f"policy lacks {item.where}: {item.value}")
    if missing is not None:
        print("the policy refuses this guest" if missing else "the policy approves this guest")
    return 5 if missing else 0


def _places(words: list[str], settings: Settings) -> dict[str, Path]:
    pairs = [word.partition("=") for word in words]
    unknown = [name for name, _, place in pairs if name not in settings.file.models or not place]
    if unknown:
        raise ConfigError("package-place", f"--package {unknown[0][:64]}: no model of CONFIG")
    return {name: Path(place) for name, _, place in pairs}


def _missing(
    arguments: argparse.Namespace, settings: Settings, models: dict[str, Digest]
) -> tuple[Unapproved, ...] | None:
    """Return what the policy lacks; None without a policy."""
    if arguments.policy is None:
        return None
    from server.posture import declared

    policy = load_policy(arguments.policy, signer=arguments.policy_signer)
    return unapproved(
        settings.digest,
        models,
        posture=declared(settings.file, engine="as installed"),
        policy=policy.file,
    )
