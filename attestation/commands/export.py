"""What `tacit verify` writes beside its answer: a page for people, a token for other programs."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from attestation.appraise import AttestationResult
from attestation.commands import files
from attestation.errors import ConfigError
from attestation.explain import Answer
from attestation.policy import Policy
from attestation.report import Report


def add_exports(parser: argparse.ArgumentParser) -> None:
    """Add `--html`, `--ear` and `--ear-key`."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page to file or print")
    parser.add_argument("--ear", type=Path, metavar="FILE", help="write the result as an EAR JWT")
    parser.add_argument("--ear-key", type=Path, metavar="PEM", help="the P-256 key that signs it")


def check_exports(arguments: argparse.Namespace) -> None:
    """Refuse a command line that could not write what it asks for, before anything is fetched."""
    if (arguments.ear is None) != (arguments.ear_key is None):
        raise ConfigError("argument-invalid", "--ear and --ear-key go together")
    if arguments.ear is not None and arguments.policy is None:
        raise ConfigError(
            "argument-invalid", "an EAR states a result under a policy; give --policy"
        )


def write_ear(arguments: argparse.Namespace, result: AttestationResult, *, now: datetime) -> None:
    """Sign the result, whatever it is, where `--ear` asks for it."""
    if arguments.ear is None:
        return
    from attestation.ear import TokenKey, result_claims

    key = TokenKey.load(files.read(arguments.ear_key), name=arguments.ear_key.name)
    files.write(arguments.ear, key.sign(result_claims(result, now=now)).encode())


def write_page(
    arguments: argparse.Namespace,
    answer: Answer,
    *,
    source: str,
    policy: Policy | None,
    report: Report | None,
    saved: Path | None,
) -> None:
    """Write the page where `--html` asks for it; a refusal has one too."""
    if arguments.html is None:
        return
    from attestation.page import Subject, exhibits_of, page

    subject = Subject(
        source=source,
        written_at=files.now(),
        policy=policy,
        policy_file=None if arguments.policy is None else arguments.policy.name,
        saved=None if saved is None else saved.name,
        exhibits=() if report is None else exhibits_of(report),
    )
    files.write(arguments.html, page(answer, subject).encode())
