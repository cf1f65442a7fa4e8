"""`tacit apikey new|list|rotate|revoke`: API keys, in their file or on a running guest."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attestation.commands.files import Commands
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from attestation.regular import read_regular
from server.apikeys import FreshKey, KeyFile, KeyRing, parse_key_file, public
from server.commands.operators import act, add_operators
from server.keyfile import fresh_key, locked, read, write

_MAX_PEPPER = 4096


def register(commands: Commands) -> None:
    """Add the `apikey` family."""
    family = commands.add_parser("apikey", help="make, list, rotate and revoke API keys")
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = actions.add_parser("new", help="make a key; it is shown once")
    new.add_argument("--tenant", required=True, help="who the key speaks for")
    new.add_argument("--name", default="unnamed", help="where it is used, or by whom")
    new.add_argument("--days", type=int, default=90, help="life of the key (default 90)")
    new.set_defaults(run=_new)

    listing = actions.add_parser("list", help="show ids, tenants, names and dates, unchecked")
    listing.set_defaults(run=_list)

    rotate = actions.add_parser("rotate", help="make a key like another, which ends soon")
    rotate.add_argument("id", help="the eight characters after `sk-tacit-`")
    rotate.add_argument("--hours", type=int, default=24, help="both work so long (default 24)")
    rotate.set_defaults(run=_rotate)

    revoke = actions.add_parser("revoke", help="remove a key; takes effect within a second")
    revoke.add_argument("id", help="the eight characters after `sk-tacit-`")
    revoke.set_defaults(run=_revoke)

    for parser in (new, rotate, revoke):
        parser.add_argument("--pepper", type=Path, help="the broker's pepper")
    for parser in (new, listing, rotate, revoke):
        parser.add_argument("--keys", type=Path, help="the key file")
        add_operators(parser)
        parser.add_argument("--json", action="store_true", help="machine-readable output")


def _new(args: argparse.Namespace) -> int:
    if args.operators is not None:
        asked = {"tenant": args.tenant, "name": args.name, "days": args.days}
        return _show(act(args, "keys", asked), as_json=args.json)
    pepper = _pepper(args)
    with locked(args.keys):
        first = not args.keys.exists()
        ring = KeyRing.empty(pepper) if first else _ring(args.keys, pepper)
        fresh = fresh_key(ring.file)
        after = ring.create(
            fresh, tenant=args.tenant, name=args.name, now=_now(), life=timedelta(days=args.days)
        )
        write(args.keys, after.file)
    return _show(_made(after.file, fresh), as_json=args.json)


def _list(args: argparse.Namespace) -> int:
    if args.operators is not None:
        entries = act(args, "keys")["keys"]
    elif args.keys is None:
        raise ConfigError("operators-arguments", "name --keys, or --operators and its arguments")
    else:
        file = parse_key_file(read(args.keys), name=args.keys.name)
        entries = [public(entry) for entry in file.keys]
    if args.json:
        print(json.dumps(entries))
        return 0
    for entry in entries:
        print("  ".join(entry.values()))
    return 0


def _rotate(args: argparse.Namespace) -> int:
    if not 0 <= args.hours <= 24 * 90:
        raise ConfigError("api-key-invalid", f"{args.hours} hours, between 0 and {24 * 90}")
    if args.operators is not None:
        asked = {"id": args.id, "hours": args.hours}
        return _show(act(args, "keys/rotate", asked), as_json=args.json)
    overlap, pepper = timedelta(hours=args.hours), _pepper(args)
    with locked(args.keys):
        ring = _ring(args.keys, pepper)
        fresh = fresh_key(ring.file)
        after = ring.rotate(args.id, fresh, now=_now(), overlap=overlap)
        write(args.keys, after.file)
    return _show(_made(after.file, fresh), as_json=args.json)


def _revoke(args: argparse.Namespace) -> int:
    if args.operators is not None:
        left = act(args, "keys/revoke", {"id": args.id})["keys"]
    else:
        pepper = _pepper(args)
        with locked(args.keys):
            after = _ring(args.keys, pepper).revoke(args.id)
            write(args.keys, after.file)
        left = len(after.file.keys)
    if args.json:
        print(json.dumps({"revoked": args.id, "keys": left}))
    else:
        print(f"revoked {args.id}; {left} keys are left", file=sys.stderr)
    return 0


def _made(file: KeyFile, fresh: FreshKey) -> dict[str, Any]:
    return {**public(file.entry(fresh.id)), "key": fresh.text().reveal()}


def _show(made: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(made))
        return 0
    print(made["key"])
    print(f"key {made['id']} of {made['tenant']} until {made['expires']}", file=sys.stderr)
    print("it is not shown again; the file holds only its HMAC", file=sys.stderr)
    return 0


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _ring(path: Path, pepper: Confidential[bytes]) -> KeyRing:
    return KeyRing.load(read(path), pepper, name=path.name)


def _pepper(args: argparse.Namespace) -> Confidential[bytes]:
    if args.keys is None or args.pepper is None:
        raise ConfigError("operators-arguments", "name --keys and --pepper, or --operators")
    try:
        pepper = read_regular(args.pepper, limit=_MAX_PEPPER)
    except OSError as error:
        raise ConfigError("api-key-pepper", f"{args.pepper.name}: {error.strerror}") from None
    if len(pepper) > _MAX_PEPPER:  # cut, it would mint keys that no gateway knows
        raise ConfigError("api-key-pepper", f"{args.pepper.name} is over {_MAX_PEPPER} bytes")
    return Confidential(pepper)
