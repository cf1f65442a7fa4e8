"""`tacit broker`, `releases`: run a key broker, read and verify its release log."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attestation.codec import parse_json
from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError
from attestation.types import Digest


def register(commands: Commands) -> None:
    """Add the commands of whoever runs the key broker."""
    broker = commands.add_parser("broker", help="run the key broker (CoCo KBS protocol 0.4.0)")
    broker.add_argument("config", type=Path, metavar="CONFIG")
    broker.add_argument("--check", action="store_true", help="load everything, serve nothing")
    broker.add_argument(
        "--init",
        action="store_true",
        help="make the KEK, token key, TLS key and certificate that CONFIG names and lacks",
    )
    files.add_json(broker)
    broker.set_defaults(run=_needs_extra(run_broker))

    releases = commands.add_parser("releases", help="verify and print a broker's release log")
    releases.add_argument("config", type=Path, metavar="CONFIG")
    releases.add_argument(
        "--since", metavar="DIGEST", help="a head noted earlier, which must still be in the log"
    )
    files.add_json(releases)
    releases.set_defaults(run=_needs_extra(run_releases))


def run_broker(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; one line on stderr says when."""
    from attestation.broker.app import BrokerServer, open_broker
    from attestation.broker.provision import provision
    from attestation.broker.settings import BrokerSettings

    settings = BrokerSettings.load(args.config)
    if args.init:
        made = [str(path) for path in provision(settings, now=datetime.now(UTC))]
        _print(args, {"made": made}, "\n".join(made))
        return 0
    broker = open_broker(settings, clock=lambda: datetime.now(UTC))
    host, profile = settings.file.listen.host, settings.file.profile
    server = BrokerServer(
        broker,
        settings,
        ready=lambda port: _announce(f"https://{host}:{port}", profile=profile),
    )
    if args.check:
        broker.kek.check()
        names = sorted(broker.resources)
        _print(args, {"resources": names, "kek": broker.kek.id}, "\n".join(names))
        broker.close()
        return 0
    _log_to_stderr()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn drains, then raises the signal again
    server.run()
    broker.close()
    return 0 if server.started else 1


def run_releases(args: argparse.Namespace) -> int:
    """Print every entry of the release log, once the whole chain has been verified."""
    from attestation.broker.releaselog import verify_chain
    from attestation.broker.settings import BrokerSettings
    from attestation.broker.store import Store

    known = Digest.parse(args.since) if args.since else None
    store = Store.existing(BrokerSettings.load(args.config).store_url)
    try:
        head = verify_chain(store.releases(), known=known)
        if args.json:
            entries = [parse_json(item.entry) for item in store.releases()]
            counts = [
                dict(zip(("day", "act", "code", "count"), row, strict=True))
                for row in store.tallies()
            ]
            answer = {"size": head.size, "head": str(head.hash)}
            print(json.dumps(answer | {"entries": entries, "counts": counts}))
            return 0
        for item in store.releases():
            entry = parse_json(item.entry)
            words = [entry["at"], entry["event"], entry["code"], entry["resource"] or "-"]
            print(" ".join([*words, "simulated" if entry["simulated"] else ""]).rstrip())
        print(f"{head.size} entries verified, head {head.hash}", file=sys.stderr)
        return 0
    finally:
        store.close()


def _announce(where: str, *, profile: str) -> None:
    words = "  (simulated: nothing here is confidential)" if profile == "simulated" else ""
    print(f"tacit broker: ready on {where}{words}", file=sys.stderr, flush=True)


def _log_to_stderr() -> None:
    """Codes and places only; uvicorn's own messages could quote a request."""
    form = logging.Formatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s %(code)s %(place)s",
        defaults={"code": "", "place": ""},
    )
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logger = logging.getLogger("tacit.broker")
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


def _needs_extra(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def checked(args: argparse.Namespace) -> int:
        try:
            return run(args)
        except ModuleNotFoundError as missing:
            raise ConfigError("broker-extra", f"{missing.name} is not installed") from None

    return checked


def _print(args: argparse.Namespace, answer: dict[str, object], words: str) -> None:
    if args.json:
        print(json.dumps(answer))
    elif words:
        print(words)
