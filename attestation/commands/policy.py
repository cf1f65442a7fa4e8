"""`tacit policy`: draft a policy from a report or as a template, and say what a policy accepts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError
from attestation.explain import policy_sentences, printable
from attestation.policy import Policy, intel_roots, simulated_roots

REVIEW = """these values are what one guest showed: whoever ran it chose them. Compare MRTD and
RTMRs with your own build of the image, and the digests with what you deployed, before you rely on
them"""


def register(commands: Commands) -> None:
    """Add `policy new|check|sign`."""
    parser = commands.add_parser("policy", help="write and read appraisal policies")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")

    new = acts.add_parser("new", help="print a policy: a template, or one that accepts one guest")
    new.add_argument("--from", dest="source", type=Path, metavar="REPORT")
    new.add_argument("--name", help="what the policy is called")
    new.add_argument("--collateral", type=Path, metavar="FILE")
    new.add_argument("--at", type=files.moment, metavar="TIME", help="default: when it was saved")
    new.add_argument(
        "--simulated-root", type=Path, metavar="PEM", help="the root of a software TDX"
    )
    new.set_defaults(run=run_new)

    check = acts.add_parser("check", help="load a policy and say what it accepts")
    check.add_argument("file", type=Path, metavar="FILE")
    files.add_policy_signer(check)
    files.add_json(check)
    check.set_defaults(run=run_check)

    sign = acts.add_parser("sign", help="sign a policy, so that production relies on it")
    sign.add_argument("file", type=Path, metavar="FILE")
    sign.add_argument("--key", type=Path, required=True, metavar="PEM", help="see `tacit keygen`")
    sign.add_argument(
        "--number", type=int, required=True, metavar="N", help="higher than of all you signed"
    )
    sign.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with .dsse.json")
    files.add_json(sign)
    sign.set_defaults(run=run_sign)


def run_new(arguments: argparse.Namespace) -> int:
    """Print YAML; with `--from` only after the report's signatures have been checked."""
    from attestation.draft import Draft

    pem = None
    if arguments.simulated_root is not None:
        pem = files.read(arguments.simulated_root).decode("ascii", "replace")
    if arguments.source is None:
        name = {} if arguments.name is None else {"name": arguments.name}
        print(Draft(root_pem=pem, **name).to_yaml(), end="")
        return 0
    text = _draft(arguments, pem=pem)
    Policy.load(text.encode(), name="the draft")
    print(text, end="")
    print(REVIEW, file=sys.stderr)
    return 0


def _draft(arguments: argparse.Namespace, *, pem: str | None) -> str:
    from attestation.authenticate import authenticate
    from attestation.commands.verify import endorsements_for
    from attestation.draft import Draft

    report = files.saved_report(files.read(arguments.source), name=arguments.source.name)
    saved = report.verification
    now = arguments.at or (saved.verified_at if saved else files.now())
    claims = authenticate(
        report.evidence,
        endorsements_for(report, arguments.collateral, now=now),
        roots=intel_roots() if pem is None else simulated_roots(pem, name="--simulated-root"),
        expected_nonce=report.nonce,
        now=now,
    )
    draft = Draft.of(
        claims.tdx.report,
        report.keyset,
        name=arguments.name or "draft",
        evaluation=claims.tdx.tcb.evaluation,
        root_pem=pem,
        gpu=claims.gpu,
    )
    return draft.to_yaml()


def run_check(arguments: argparse.Namespace) -> int:
    """Say what a policy accepts, or raise `ConfigError` where it does not load."""
    policy = files.load_policy(arguments.file, signer=arguments.policy_signer)
    signed = policy.signature
    if arguments.json:
        files.show(
            {
                "name": policy.name,
                "digest": str(policy.digest),
                "signed_by": signed.key_id if signed else None,
                "number": signed.number if signed else None,
                "policy": policy.file.model_dump(mode="json"),
            }
        )
    else:
        print(printable(policy_sentences(policy.file)))
        print(f"  digest     {policy.digest}")
        print(f"  signed     {f'by {signed.key_id}, number {signed.number}' if signed else 'no'}")
    return 0


def run_sign(arguments: argparse.Namespace) -> int:
    """Sign a policy that loads; the file beside it is what relying parties are given."""
    from attestation.dsse import private_key
    from attestation.policy_signature import sign_policy

    if not 1 <= arguments.number < 2**53:
        raise ConfigError("argument-invalid", "--number counts the policies you sign, from 1")
    text = files.read(arguments.file)
    policy = Policy.load(text, name=arguments.file.name)
    key = private_key(files.read(arguments.key), name=arguments.key.name)
    out = arguments.out or arguments.file.with_name(f"{arguments.file.name}.dsse.json")
    files.write(out, sign_policy(text, number=arguments.number, signer=key))
    if arguments.json:
        files.show({"file": str(out), "digest": str(policy.digest), "number": arguments.number})
    else:
        print(f"{out}: policy {policy.name} number {arguments.number}, {policy.digest}")
    return 0
