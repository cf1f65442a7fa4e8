"""`tacit broker-admin`: keys, policies, approvals, releases and sessions of a running broker."""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from attestation.codec import parse_document, parse_json
from attestation.codes import CODES
from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError, Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.tls import pinned_context

_MAX_ANSWER = 16 * 1024 * 1024


def register(commands: Commands) -> None:
    """Add the commands of whoever administrates a key broker."""
    admin = commands.add_parser("broker-admin", help="administrate a running key broker")
    admin.add_argument("--url", required=True, help="the broker's admin listener")
    admin.add_argument(
        "--pin", type=Path, required=True, metavar="PEM", help="the listener's certificate"
    )
    admin.add_argument("--token-file", type=Path, metavar="FILE", help="a JWT to log in with")
    admin.add_argument("--cert", type=Path, metavar="PEM", help="a certificate to log in with")
    admin.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    what = admin.add_subparsers(dest="what", required=True, metavar="WHAT")

    keys = what.add_parser("keys", help="list, import and revoke keys")
    acts = keys.add_subparsers(dest="act", required=True, metavar="ACT")
    _act(acts, "list", "what is in service", _get("keys"))
    imported = _act(acts, "import", "take a wrapped key into service", _import)
    imported.add_argument("file", type=Path, metavar="FILE")
    revoked = _act(acts, "revoke", "refuse a version of a key for ever", _revoke)
    revoked.add_argument("resource", metavar="REPO/TYPE/TAG")
    revoked.add_argument("version", metavar="KEY", help="its name in `keys list`")

    approvals = what.add_parser("approvals", help="list and give approvals")
    acts = approvals.add_subparsers(dest="act", required=True, metavar="ACT")
    _act(acts, "list", "guests that wait for approval", _get("approvals"))
    approved = _act(acts, "approve", "let a guest have a key for some hours", _approve)
    approved.add_argument("request", metavar="REQUEST")
    approved.add_argument("--hours", type=int, default=1)

    releases = _act(what, "releases", "the release log, verified by the broker", _releases)
    releases.add_argument("--since", type=int, default=0, metavar="INDEX")
    _act(what, "policies", "policies in force", _get("policies"))
    _act(what, "sessions", "sessions and refusals", _get("sessions"))


Ask = tuple[str, str, bytes | None]
"""Method, path below /v1/admin/, and body."""


def _act(acts: Commands, name: str, words: str, ask: Callable[[Any], Ask]) -> Any:
    parser = acts.add_parser(name, help=words)
    files.add_json(parser)
    parser.set_defaults(run=lambda args: _run(args, ask))
    return parser


def _get(path: str) -> Callable[[Any], Ask]:
    return lambda _args: ("GET", path, None)


def _import(args: argparse.Namespace) -> Ask:
    return "POST", "keys", files.read(args.file)


def _revoke(args: argparse.Namespace) -> Ask:
    body = {"resource": args.resource, "key": args.version}
    return "POST", "keys/revoke", json.dumps(body).encode()


def _approve(args: argparse.Namespace) -> Ask:
    body = {"request": args.request, "hours": args.hours}
    return "POST", "approvals", json.dumps(body).encode()


def _releases(args: argparse.Namespace) -> Ask:
    return "GET", f"releases?since={args.since}", None


def _run(args: argparse.Namespace, ask: Callable[[Any], Ask]) -> int:
    method, path, body = ask(args)
    answer = _send(args, method, f"/v1/admin/{path}", body=body)
    if args.json:
        files.show(answer)
        return 0
    rows = next((value for value in answer.values() if isinstance(value, list)), [answer])
    for row in rows:
        print(
            "  ".join(f"{name}={_short(value)}" for name, value in row.items() if value is not None)
        )
    return 0


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _send(
    args: argparse.Namespace, method: str, path: str, *, body: bytes | None
) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    if args.token_file is not None:
        token = files.read(args.token_file).decode("ascii", errors="replace").strip()
        headers["authorization"] = f"Bearer {token}"
    try:
        with httpx2.Client(
            base_url=args.url, verify=_context(args), trust_env=False, timeout=30
        ) as http:
            response = http.request(method, path, content=body, headers=headers)
    except httpx2.TransportError as error:
        raise Undecidable("broker-unreachable", type(error).__name__) from None
    if response.status_code != 200:
        _refuse(response.status_code, response.content)
    answer = parse_json(response.content, limit=_MAX_ANSWER)
    if not isinstance(answer, dict):
        raise Malformed("broker-protocol", f"an answer of {len(response.content)} bytes")
    return answer


def _context(args: argparse.Namespace) -> ssl.SSLContext:
    context = pinned_context(files.read(args.pin).decode("ascii", errors="replace"))
    if args.cert is not None:
        try:
            files.load_identity(context, args.cert, key=args.key)
        except (OSError, ssl.SSLError):
            raise ConfigError("admin-login", f"{args.cert} and its key do not load") from None
    return context


def _refuse(status: int, body: bytes) -> None:
    from attestation.broker.protocol import ErrorInformation

    try:
        code = parse_document(ErrorInformation, body, limit=4096).detail
    except Malformed:
        code = ""
    code = code if code in CODES else "broker-protocol"
    kind = {401: NotAuthentic, 403: NotAffirmed, 404: NotAffirmed}.get(status)
    if kind is None:
        kind = Malformed if status in (400, 413) else Undecidable
    raise kind(code, f"the broker answers {status}")
