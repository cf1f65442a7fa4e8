"""`tacit kek`, `wrap`: make key encryption keys; wrap and rewrap what a broker releases."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from attestation.codec import b64
from attestation.commands import files
from attestation.commands.files import Commands
from attestation.confidential import Confidential
from attestation.errors import ConfigError


def register(commands: Commands) -> None:
    """Add the commands of whoever keeps the keys."""
    kek = commands.add_parser("kek", help="make, check and rotate key encryption keys")
    acts = kek.add_subparsers(dest="act", required=True, metavar="ACT")
    new = acts.add_parser(
        "new", help="make a KEK: a file (mode 0600), or a key inside an HSM; never replaces one"
    )
    new.add_argument("where", metavar="PATH_OR_PKCS11_URI")
    files.add_json(new)
    new.set_defaults(run=run_new)
    check = acts.add_parser("check", help="say whether a KEK can be used, and cannot be exported")
    check.add_argument("uri", metavar="URI")
    files.add_json(check)
    check.set_defaults(run=run_check)
    forms = acts.add_parser("forms", help="print the URIs a KEK can have")
    files.add_json(forms)
    forms.set_defaults(run=run_forms)
    rewrap = acts.add_parser("rewrap", help="wrap a wrapped key with another KEK, or a newer one")
    rewrap.add_argument("file", type=Path, metavar="FILE")
    rewrap.add_argument("--key", required=True, metavar="URI", help="the KEK that wrapped it")
    rewrap.add_argument("--to", required=True, metavar="URI", help="the KEK that shall wrap it")
    rewrap.add_argument("--out", type=Path, required=True, metavar="FILE")
    files.add_json(rewrap)
    rewrap.set_defaults(run=run_rewrap)

    wrap = commands.add_parser("wrap", help="wrap a secret from stdin for a broker to release")
    wrap.add_argument("resource", metavar="REPO/TYPE/TAG")
    wrap.add_argument("--key", required=True, metavar="URI", help="the KEK; see `tacit kek forms`")
    wrap.add_argument("--out", type=Path, required=True, metavar="FILE")
    files.add_json(wrap)
    wrap.set_defaults(run=run_wrap)


def run_new(args: argparse.Namespace) -> int:
    """Make a KEK and say its id."""
    from attestation.broker.hsm import open_hsm
    from attestation.broker.kek import create_file_kek

    scheme, colon, location = args.where.partition(":")
    if colon and scheme == "pkcs11":
        kek = open_hsm(location, directory=Path())
        kek.create()
        return _answer(args, {"kek": kek.id}, kek.id)
    if colon and scheme == "openbao":
        raise ConfigError("kek-uri", "OpenBao makes its own: bao write -f MOUNT/keys/KEY")
    path = Path(location if colon and scheme == "file" else args.where)
    made = create_file_kek(path)
    return _answer(args, {"kek": made.id}, made.id)


def run_check(args: argparse.Namespace) -> int:
    """Use the KEK once each way."""
    from attestation.broker.kek import open_kek

    with closing(open_kek(args.uri)) as kek:
        kek.check()
        probe, aad = Confidential(b"tacit kek check"), b"tacit/v1/kek-check"
        kek.unwrap(kek.wrap(probe, aad=aad), aad=aad)
    return _answer(args, {"kek": kek.id, "usable": True}, f"{kek.id} can be used")


def run_forms(args: argparse.Namespace) -> int:
    """Print the forms."""
    from attestation.broker.kek import FORMS

    return _answer(args, {"forms": list(FORMS)}, "\n".join(FORMS))


def run_rewrap(args: argparse.Namespace) -> int:
    """Move a wrapped key to another KEK; the sealed weights stay as they are."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import parse_wrapped
    from attestation.broker.release import unwrap

    wrapped = parse_wrapped(files.read(args.file), name=args.file.name)
    with closing(open_kek(args.key)) as old, closing(open_kek(args.to)) as kek:
        secret = unwrap(wrapped, old)
        changes = {"kek": kek.id, "wrapped": b64(kek.wrap(secret, aad=wrapped.aad))}
    again = wrapped.model_copy(update=changes | {"created": datetime.now(UTC)})
    files.write(args.out, again.model_dump_json(indent=2).encode() + b"\n")
    return _answer(args, {"resource": wrapped.resource, "kek": kek.id}, "")


def run_wrap(args: argparse.Namespace) -> int:
    """Wrap the bytes on stdin, every one of them, as a resource of kind `secret`."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import WrappedSecret, secret_aad
    from attestation.broker.protocol import MAX_RESOURCE, resource_path

    resource = resource_path(args.resource)
    secret = sys.stdin.buffer.read(MAX_RESOURCE + 1)
    if not 0 < len(secret) <= MAX_RESOURCE:
        raise ConfigError("wrap-size", f"a secret has 1 to {MAX_RESOURCE} bytes")
    with closing(open_kek(args.key)) as kek:
        wrapped = kek.wrap(Confidential(secret), aad=secret_aad(resource))
    document = WrappedSecret(
        version=1,
        kind="secret",
        resource=resource,
        kek=kek.id,
        wrapped=b64(wrapped),
        created=datetime.now(UTC),
    )
    files.write(args.out, document.model_dump_json(indent=2).encode() + b"\n")
    return _answer(args, {"resource": resource, "kek": kek.id}, "")


def _answer(args: argparse.Namespace, answer: dict[str, object], words: str) -> int:
    if args.json:
        files.show(answer)
    elif words:
        print(words)
    return 0
