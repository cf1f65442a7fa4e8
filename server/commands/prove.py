"""`tacit prove-retention URL`: canaries through every door of a service, then a search for them."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from attestation.commands.files import (
    Commands,
    add_json,
    add_policy_signer,
    load_policy,
    read,
    show,
)
from attestation.errors import ConfigError

if TYPE_CHECKING:
    from server.retention.run import Operator, Target


def register(commands: Commands) -> None:
    """Add `prove-retention`."""
    parser = commands.add_parser(
        "prove-retention",
        help="send canaries through a service and search for them everywhere",
        description="Verify the service, send canaries through every route, field and failure of"
        " it, then search answers, logs, metrics, telemetry, files, processes, core dumps and swap"
        " for them in every spelling. What cannot be searched from here is named and never counts"
        " as a pass. Exit 0 when nothing was found in any sink, 5 when something was, 6 when a sink"
        " was out of reach or a request was not answered as it should be.",
    )
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--policy", type=Path, required=True, metavar="FILE")
    add_policy_signer(parser)
    parser.add_argument(
        "--api-key", type=Path, required=True, metavar="FILE", help="a file with an API key"
    )
    local = parser.add_argument_group("on the machine of the service, as root")
    local.add_argument(
        "--config", type=Path, metavar="FILE", help="its settings: engines' sockets, run directory"
    )
    local.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="its process, and the broker's; their children belong to them",
    )
    local.add_argument(
        "--log", type=Path, action="append", default=[], metavar="FILE", help="all they print"
    )
    local.add_argument(
        "--telemetry",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="what an OpenTelemetry collector received from it, not packed",
    )
    local.add_argument(
        "--directory",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory of its own: configuration, databases, volumes",
    )
    local.add_argument(
        "--crash-engine",
        action="store_true",
        help="afterwards abort the engines of --pid while they answer, and search again; the"
        " service ends by it",
    )
    operator = parser.add_argument_group("metrics, where the service has a listener for operators")
    operator.add_argument("--operator-url", metavar="URL", help="https://HOST:PORT of it")
    operator.add_argument("--operator-token", type=Path, metavar="FILE", help="a JWT to log in by")
    operator.add_argument(
        "--operator-cert", type=Path, metavar="FILE", help="a client certificate and its key, PEM"
    )
    add_json(parser)
    parser.set_defaults(run=run_prove)


def run_prove(arguments: argparse.Namespace) -> int:
    """Prove and print; the exit status is the verdict's."""
    from server.retention.canary import RANDOM_BYTES
    from server.retention.proof import EXIT
    from server.retention.run import prove

    if arguments.crash_engine and not arguments.pid:
        raise ConfigError("prove-argument", "--crash-engine needs --pid")
    proof = prove(
        _target(arguments),
        random=os.urandom(RANDOM_BYTES),
        since=time.time_ns(),
        crash_engine=arguments.crash_engine,
    )
    if arguments.json:
        show(proof.to_json())
    else:
        print(proof.to_text())
    return EXIT[proof.verdict]


def _target(arguments: argparse.Namespace) -> Target:
    from server.retention.run import Target
    from server.retention.sinks import Local
    from server.settings import Settings

    settings = Settings.load(arguments.config) if arguments.config else None
    directories = list(arguments.directory)
    if settings is not None:
        directories.append(settings.directory)
    local = Local(
        pids=tuple(arguments.pid),
        logs=tuple(arguments.log),
        telemetry=tuple(arguments.telemetry),
        run_directory=settings.path(settings.file.run_directory) if settings else None,
        directories=tuple(directories),
        settings=settings.file if settings else None,
    )
    return Target(
        arguments.url,
        load_policy(arguments.policy, signer=arguments.policy_signer),
        _secret(arguments.api_key),
        local,
        settings,
        _operator(arguments),
    )


def _operator(arguments: argparse.Namespace) -> Operator | None:
    from server.retention.run import Operator

    if arguments.operator_url is None:
        return None
    token = _secret(arguments.operator_token) if arguments.operator_token else None
    return Operator(arguments.operator_url, token, arguments.operator_cert)


def _secret(path: Path) -> str:
    """Read one word that goes into a header."""
    text = read(path).decode("latin-1").strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise ConfigError("prove-argument", f"{path.name} is not a file with one word to log in by")
    return text
