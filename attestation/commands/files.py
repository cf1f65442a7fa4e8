"""Files and arguments of the command line: read within a limit, write whole or not at all."""

from __future__ import annotations

import argparse
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from attestation.codec import MAX_JSON
from attestation.dsse import public_key
from attestation.errors import ConfigError, Malformed
from attestation.policy import Policy
from attestation.policy_signature import open_policy
from attestation.regular import read_regular, replace_regular, require_regular
from attestation.report import Report, looks_like_report

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""What a family adds its parsers to; argparse has no public name for it."""


def read(path: Path, *, limit: int = MAX_JSON) -> bytes:
    """Read `path`, at most `limit` bytes."""
    try:
        data = read_regular(path, limit=limit)
    except OSError as error:
        raise ConfigError("file-unreadable", f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise Malformed("too-large", f"{path.name} is over {limit} bytes")
    return data


def write(path: Path, data: bytes) -> None:
    """Write `path` so that a reader sees the old file or the whole new one."""
    try:
        replace_regular(path, data, mode=0o666)
    except OSError as error:
        raise ConfigError("file-unwritable", f"{path}: {error.strerror}") from None


def add_policy_signer(parser: argparse.ArgumentParser) -> None:
    """Add `--policy-signer`, which every command that relies on a policy has."""
    parser.add_argument(
        "--policy-signer", type=Path, metavar="PEM", help="who must have signed the policy"
    )


def load_policy(path: Path, *, signer: Path | None = None) -> Policy:
    """Read and load a policy file, which `signer` must have signed if one is named."""
    data = read(path)
    if signer is None:
        return Policy.load(data, name=path.name)
    key = public_key(read(signer), name=signer.name)
    return Policy.load_signed(data, signer=key, name=path.name)


def policy_text(path: Path, *, signer: Path | None = None) -> bytes:
    """Return the text of a policy file, without its envelope."""
    data = read(path)
    if signer is None:
        return data
    key = public_key(read(signer), name=signer.name)
    return open_policy(data, signer=key, name=path.name)[0]


def now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def moment(text: str) -> datetime:
    """Parse an argument: seconds since 1970 or RFC 3339 with an offset."""
    try:
        value = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else _rfc3339(text)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError("give UNIX seconds or RFC 3339 with an offset") from None
    return value


def seconds(text: str) -> float:
    """Parse an argument: how long to wait, up to a day."""
    value = float(text)
    if not 0 < value <= 86400:  # nor NaN
        raise argparse.ArgumentTypeError("give seconds, over 0 and at most 86400")
    return value


def authority(path: Path | None) -> ssl.SSLContext | None:
    """Return whom a `--tls-ca` trusts, `None` for the system's authorities where it is absent."""
    if path is None:
        return None
    try:
        return ssl.create_default_context(cadata=read(path).decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError("argument-invalid", "--tls-ca holds no certificate") from None


def load_identity(context: ssl.SSLContext, certificate: Path, *, key: Path | None) -> None:
    """Show `certificate` to who asks for one; raises `OSError` (`ssl.SSLError` is one too)."""
    require_regular(certificate, *(() if key is None else (key,)))
    context.load_cert_chain(certificate, key)


def saved_report(data: bytes, *, name: str) -> Report:
    """Parse a saved report; raises `Malformed` `file-kind` for what begins unlike any report."""
    if not looks_like_report(data):
        raise Malformed("file-kind", f"{name} is no saved report")
    return Report.parse(data)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which every command with something to read has."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")


def told(arguments: argparse.Namespace, **what: object) -> int:
    """Say what was done, a line each or as JSON, and return exit code 0."""
    if arguments.json:
        show(what)
    else:
        print("\n".join(f"{name}: {value}" for name, value in what.items()))
    return 0


def show(document: Any) -> None:
    """Print JSON on standard output, in ASCII: a terminal obeys some other characters."""
    print(json.dumps(document, indent=2))


def _rfc3339(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError("no offset")
    return value.astimezone(UTC)
