"""`tacit explain`: every check of a saved report, or one, with what it expects and why."""

from __future__ import annotations

import argparse
from pathlib import Path

from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError, NotAffirmed
from attestation.explain import SIMULATED, check_json, check_text, printable
from attestation.policy import Policy
from attestation.report import Report


def register(commands: Commands) -> None:
    """Add `explain`."""
    parser = commands.add_parser("explain", help="explain the checks of a saved report")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="what `verify service --save` wrote"
    )
    parser.add_argument("check", nargs="?", metavar="CHECK", help="a check id, such as tdx.mrtd")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="default: the one in the file")
    parser.add_argument("--collateral", type=Path, metavar="FILE")
    parser.add_argument("--gpu-endorsements", type=Path, metavar="FILE")
    parser.add_argument(
        "--at", type=files.moment, metavar="TIME", help="default: when it was saved"
    )
    files.add_policy_signer(parser)
    files.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge the report again and print each check; exit 5 when one shown does not pass."""
    from attestation.commands.verify import of_report

    report = Report.parse(files.read(arguments.file))
    policy = _policy(arguments.policy, report, signer=arguments.policy_signer)
    answer = of_report(report, policy, arguments=arguments)
    wanted = [check for check in answer.checks if arguments.check in (None, check.id)]
    if not wanted:
        raise ConfigError("argument-invalid", "the report has no check of that id")
    if arguments.json:
        files.show([check_json(check) for check in wanted])
    else:
        if answer.simulated:
            print(SIMULATED)
        whose = "the policy kept in this file" if arguments.policy is None else "the policy"
        print(f"under {whose}, {policy.name} {policy.digest}")
        for check in wanted:
            print(printable(check_text(check)))
    return 0 if all(check.passed for check in wanted) else NotAffirmed.exit_code


def _policy(path: Path | None, report: Report, *, signer: Path | None) -> Policy:
    if path is not None:
        return files.load_policy(path, signer=signer)
    if report.verification is None:
        raise ConfigError("argument-invalid", "the report holds no policy; give one with --policy")
    return Policy.load(report.verification.policy.encode(), name="the saved policy")
