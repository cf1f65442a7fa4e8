"""A running guest's operator listener: arguments and one act in, its answer out.

The guest is verified at its public address first. The operator listener shows the same attested
key, so no login leaves for anything that did not verify.
"""

from __future__ import annotations

import argparse
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attestation.codec import parse_json
from attestation.commands.files import add_policy_signer, load_identity, load_policy, read
from attestation.errors import (
    ConfigError,
    Malformed,
    NotAffirmed,
    NotAuthentic,
    Refusal,
    Undecidable,
)

_MAX_ANSWER = 4 * 1024 * 1024


def add_operators(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which guest, how it is verified, and how to log in."""
    online = parser.add_argument_group("on a running guest, in place of --keys and --pepper")
    online.add_argument("--operators", metavar="URL", help="its operator listener")
    online.add_argument("--service", metavar="URL", help="its public address, to verify it")
    online.add_argument("--policy", type=Path, metavar="FILE", help="what it must be")
    add_policy_signer(parser)
    online.add_argument("--cert", type=Path, metavar="PEM", help="certificate to log in with")
    online.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    online.add_argument("--token-file", type=Path, metavar="FILE", help="a JWT to log in with")


def act(
    args: argparse.Namespace, path: str, body: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Do one act of the admin API below `/v1/admin/`; raises a `Refusal` or `ConfigError`."""
    import httpx2

    headers = {"content-type": "application/json"}
    if args.token_file is not None:
        token = read(args.token_file).decode("ascii", errors="replace").strip()
        headers["authorization"] = f"Bearer {token}"
    content = None if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    context = _attested(args)
    try:
        with httpx2.Client(
            base_url=args.operators, verify=context, trust_env=False, timeout=30
        ) as http:
            answer = http.request(method, f"/v1/admin/{path}", content=content, headers=headers)
    except httpx2.HTTPError as error:
        raise Undecidable("operators-unreachable", type(error).__name__) from None
    except httpx2.InvalidURL:
        raise ConfigError("operators-arguments", "the operators' URL cannot be read") from None
    if answer.status_code != 200:
        raise _refusal(answer.status_code, answer.content)
    found = parse_json(answer.content, limit=_MAX_ANSWER)
    if not isinstance(found, dict):
        raise Malformed("operators-refused", f"an answer of {len(answer.content)} bytes")
    return found


def _attested(args: argparse.Namespace) -> ssl.SSLContext:
    from attestation.client import RelyingParty

    if args.service is None or args.policy is None or not str(args.operators).startswith("https:"):
        raise ConfigError("operators-arguments", "--operators https://… needs --service, --policy")
    policy = load_policy(args.policy, signer=args.policy_signer)
    context = RelyingParty(args.service, policy).attest().tls
    if args.cert is not None:
        try:
            load_identity(context, args.cert, key=args.key)
        except (OSError, ssl.SSLError):
            raise ConfigError("operators-arguments", f"{args.cert} does not load") from None
    return context


def _refusal(status: int, body: bytes) -> Refusal:
    from server.errors import MESSAGES

    try:
        code = parse_json(body, limit=4096)["error"]["code"]
        why = f"{status}: {MESSAGES[code]}"
    except (Malformed, KeyError, TypeError):
        why = f"the guest answers {status}"
    kind = {401: NotAuthentic, 403: NotAffirmed}.get(status)
    if kind is None:
        kind = Malformed if status < 500 else Undecidable
    return kind("operators-refused", why.rstrip("."))
