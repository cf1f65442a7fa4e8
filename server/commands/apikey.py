"""`tacit apikey new|list|revoke`: the operator's side of the API key file."""

from __future__ import annotations

import argparse
import json
import secrets
import string
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from pydantic import ValidationError

from attestation.codec import MAX_JSON, parse_yaml
from attestation.commands.files import Commands
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from server.auth import KeyEntry, KeyFile, mint
from server.keyfile import write

_ID = string.ascii_lowercase + string.digits
_MAX_DAYS = 1100


def register(commands: Commands) -> None:
    """Add the `apikey` family."""
    family = commands.add_parser("apikey", help="make, list and revoke API keys")
    actions = family.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = actions.add_parser("new", help="make a key; it is shown once")
    new.add_argument("--tenant", required=True, help="who the key speaks for")
    new.add_argument("--pepper", required=True, type=Path, help="file with the broker's pepper")
    new.add_argument("--days", type=int, default=90, help="life of the key (default 90)")
    new.set_defaults(run=_new)

    listing = actions.add_parser("list", help="show ids, tenants and dates")
    listing.set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="remove a key; takes effect within a second")
    revoke.add_argument("id", help="the eight characters after `sk-tacit-`")
    revoke.set_defaults(run=_revoke)

    for parser in (new, listing, revoke):
        parser.add_argument("--keys", required=True, type=Path, help="the key file")
        parser.add_argument("--json", action="store_true", help="machine-readable output")


def _new(args: argparse.Namespace) -> int:
    if not 1 <= args.days <= _MAX_DAYS:
        raise ConfigError("api-key-invalid", f"{args.days} days, between 1 and {_MAX_DAYS}")
    file = _load(args.keys) if args.keys.exists() else KeyFile(version=1, keys=())
    taken = {entry.id for entry in file.keys}
    key_id = next(made for made in iter(_random_id, None) if made not in taken)
    created = datetime.now(UTC).replace(microsecond=0)
    try:
        entry, key = mint(
            key_id=key_id,
            secret=Confidential(secrets.token_bytes(32)),
            tenant=args.tenant,
            created=created,
            expires=created + timedelta(days=args.days),
            pepper=Confidential(_bytes(args.pepper)),
        )
    except ValidationError:
        raise ConfigError("api-key-invalid", "the tenant's name is not acceptable") from None
    _save(args.keys, (*file.keys, entry))
    if args.json:
        print(json.dumps({**_public(entry), "key": key.reveal()}))
    else:
        print(key.reveal())
        print(f"key {entry.id} of {entry.tenant} until {entry.expires}", file=sys.stderr)
        print("it is not shown again; the file holds only its HMAC", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    entries = [_public(entry) for entry in _load(args.keys).keys]
    if args.json:
        print(json.dumps(entries))
        return 0
    for entry in entries:
        print("  ".join(entry.values()))
    return 0


def _revoke(args: argparse.Namespace) -> int:
    file = _load(args.keys)
    kept = tuple(entry for entry in file.keys if entry.id != args.id)
    if len(kept) == len(file.keys):
        raise ConfigError("api-key-unknown", f"none of {len(kept)} keys has this id")
    _save(args.keys, kept)
    if args.json:
        print(json.dumps({"revoked": args.id, "keys": len(kept)}))
    else:
        print(f"revoked {args.id}; {len(kept)} keys are left", file=sys.stderr)
    return 0


def _random_id() -> str:
    return "".join(secrets.choice(_ID) for _ in range(8))


def _public(entry: KeyEntry) -> dict[str, str]:
    return {
        "id": entry.id,
        "tenant": entry.tenant,
        "created": entry.created,
        "expires": entry.expires,
    }


def _load(path: Path) -> KeyFile:
    return parse_yaml(KeyFile, _bytes(path), name=path.name)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_JSON + 1)
    except OSError as error:
        raise ConfigError("api-keys-missing", f"{path}: {error.strerror}") from None


def _save(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    document = {"version": 1, "keys": [entry.model_dump() for entry in entries]}
    write(path, yaml.safe_dump(document, sort_keys=False).encode())
