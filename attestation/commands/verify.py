"""`tacit verify`: a service, report, quote or GPU in; a verdict and its reasons out."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from attestation.commands import export, files
from attestation.commands.files import Commands
from attestation.errors import NotAffirmed, Refusal
from attestation.explain import Answer, as_of, of_authentic, of_refusal, of_result, printable
from attestation.outlook import Outlook
from attestation.policy import Policy, intel_roots
from attestation.report import Report
from attestation.types import Digest, Endorsements


def register(commands: Commands) -> None:
    """Add `verify service|report|quote|gpu`."""
    parser = commands.add_parser("verify", help="verify evidence and say what it proves")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    service = kinds.add_parser("service", help="fetch fresh evidence from a service and verify it")
    service.add_argument("url", metavar="URL", help="https://host[:port]")
    service.add_argument("--policy", type=Path, required=True, metavar="FILE")
    service.add_argument("--collateral", type=Path, metavar="FILE", help=_COLLATERAL)
    service.add_argument("--collateral-signer", type=Path, metavar="PEM", help=_BUNDLE)
    service.add_argument("--gpu-endorsements", type=Path, metavar="FILE", help=_GPU_STORE)
    service.add_argument("--save", type=Path, metavar="FILE", help="keep all that was verified")
    service.add_argument("--timeout", type=files.seconds, default=30, metavar="SECONDS")
    export.add_exports(service)
    files.add_policy_signer(service)
    files.add_json(service)
    service.set_defaults(run=verify_service)

    report = kinds.add_parser("report", help="verify a saved report, offline")
    report.add_argument("file", type=Path, metavar="FILE")
    report.add_argument("--policy", type=Path, metavar="FILE", help=_NO_POLICY)
    report.add_argument("--collateral", type=Path, metavar="FILE", help=_COLLATERAL)
    report.add_argument("--collateral-signer", type=Path, metavar="PEM", help=_BUNDLE)
    report.add_argument("--gpu-endorsements", type=Path, metavar="FILE", help=_GPU_STORE)
    report.add_argument(
        "--at", type=files.moment, metavar="TIME", help="default: when it was saved"
    )
    export.add_exports(report)
    files.add_policy_signer(report)
    files.add_json(report)
    report.set_defaults(run=verify_report)

    quote = kinds.add_parser("quote", help="verify a bare TDX quote, offline")
    quote.add_argument("file", type=Path, metavar="QUOTE")
    quote.add_argument(
        "--collateral", type=Path, action="append", required=True, metavar="FILE", help=_SETS
    )
    quote.add_argument("--at", type=files.moment, required=True, metavar="UNIX_OR_RFC3339")
    quote.add_argument("--event-log", type=Path, metavar="FILE", help="CCEL, or dstack's JSON")
    quote.add_argument("--report-data", metavar="HEX", help="the 64 bytes it must commit to")
    quote.add_argument("--policy", type=Path, metavar="FILE", help=_NO_POLICY)
    files.add_policy_signer(quote)
    files.add_json(quote)
    quote.set_defaults(run=verify_quote)

    gpu = kinds.add_parser("gpu", help="verify the report of one GPU or switch, offline")
    gpu.add_argument("file", type=Path, metavar="REPORT")
    gpu.add_argument("--certs", type=Path, required=True, metavar="PEM", help="leaf first")
    gpu.add_argument("--rim", type=Path, action="append", default=[], metavar="FILE")
    gpu.add_argument("--ocsp", type=Path, action="append", default=[], metavar="FILE", help="DER")
    gpu.add_argument("--nonce", metavar="HEX", help="the 32 bytes it must answer")
    gpu.add_argument("--at", type=files.moment, metavar="TIME", help="default: now")
    gpu.add_argument("--policy", type=Path, metavar="FILE", help=_NO_POLICY)
    files.add_policy_signer(gpu)
    files.add_json(gpu)
    gpu.set_defaults(run=verify_gpu)


_NO_POLICY = "without one the best verdict is `authentic`"
_GPU_STORE = "NVIDIA's manifests and OCSP responses; default: what the report staples"
_BUNDLE = "take --collateral for a bundle of `tacit endorse bundle` that this key signed"
_SETS = "the first decides; give Intel's `update=early` set as a second to be warned"
_COLLATERAL = "Intel's collateral, or a directory of it; default: what the report staples"


def verify_service(arguments: argparse.Namespace) -> int:
    """Verify the service at a URL with a nonce of our own."""
    export.check_exports(arguments)
    policy = _relied_on(arguments)
    policy_text = files.policy_text(arguments.policy, signer=arguments.policy_signer)
    received: list[Report] = []

    def answer() -> Answer:
        from attestation.fetch import fetch_report
        from attestation.types import nonce
        from attestation.verifier import Verifier

        challenge = nonce(secrets.token_bytes(32))
        fetched = fetch_report(arguments.url, nonce=challenge, timeout_s=arguments.timeout)
        report = Report.parse(fetched.report)
        received.append(report)
        now = files.now()
        endorsements = endorsements_for(
            report,
            arguments.collateral,
            now=now,
            gpu=arguments.gpu_endorsements,
            signer=arguments.collateral_signer,
        )
        if arguments.save is not None:  # kept even when it is refused: it is evidence of that
            saved = report.verified(
                now, tls_spki=fetched.spki, policy=policy_text, endorsements=endorsements
            )
            files.write(arguments.save, saved.to_bytes())
        result = Verifier(policy).verify(
            report.evidence, endorsements, expected_nonce=challenge, now=now
        )
        report.check_tls_key(fetched.spki)
        export.write_ear(arguments, result, now=now)
        return of_result(result, now=now)

    def page(told: Answer) -> None:
        export.write_page(
            arguments,
            told,
            source=arguments.url,
            policy=policy,
            report=next(iter(received), None),
            saved=arguments.save if received else None,
        )

    return _tell(answer, arguments, simulated=policy.roots.simulated, also=page)


def verify_report(arguments: argparse.Namespace) -> int:
    """Verify a saved report as of when it was saved; its nonce proves no freshness to us."""
    export.check_exports(arguments)
    policy = _policy(arguments)
    simulated = policy is not None and policy.roots.simulated
    data = files.read(arguments.file)
    received: list[Report] = []

    def answer() -> Answer:
        received.append(files.saved_report(data, name=arguments.file.name))
        return of_report(received[0], policy, arguments=arguments)

    def page(told: Answer) -> None:
        export.write_page(
            arguments,
            told,
            source=arguments.file.name,
            policy=policy,
            report=next(iter(received), None),
            saved=arguments.file,
        )

    return _tell(answer, arguments, simulated=simulated, also=page)


def of_report(report: Report, policy: Policy | None, *, arguments: argparse.Namespace) -> Answer:
    """Verify a report that was kept, at `--at`, else when it was saved, else now."""
    from attestation.appraise import appraise
    from attestation.authenticate import authenticate

    saved = report.verification
    moment: datetime = arguments.at or (saved.verified_at if saved else files.now())
    claims = authenticate(
        report.evidence,
        endorsements_for(
            report,
            arguments.collateral,
            now=moment,
            gpu=arguments.gpu_endorsements,
            signer=arguments.collateral_signer,
        ),
        roots=intel_roots() if policy is None else policy.roots,
        expected_nonce=report.nonce,
        now=moment,
    )
    if saved is not None:
        report.check_tls_key(Digest.parse(saved.tls_spki))
    if policy is None:
        return as_of(of_authentic(claims), moment)
    if saved is not None and Policy.digest_of(saved.policy.encode()) != policy.digest:
        print("note: the report was saved under another policy than this one", file=sys.stderr)
    result = appraise(claims, policy, now=moment)
    if "ear" in arguments:  # `explain` asks here too, and exports nothing
        export.write_ear(arguments, result, now=moment)
    return as_of(of_result(result, now=moment), moment)


def verify_quote(arguments: argparse.Namespace) -> int:
    """Verify a quote that nothing ties to a key or a nonce; further collateral only warns."""
    policy = _policy(arguments)
    simulated = policy is not None and policy.roots.simulated

    def answer() -> Answer:
        from attestation.commands.verify_quote import quote_answer

        return quote_answer(arguments, policy, collateral=arguments.collateral[0], at=arguments.at)

    def outlook(told: Answer) -> tuple[Outlook, ...]:
        from attestation.commands.verify_quote import outlooks

        return outlooks(arguments, policy, told)

    return _tell(answer, arguments, simulated=simulated, outlook=outlook)


def verify_gpu(arguments: argparse.Namespace) -> int:
    """Verify a device that nothing ties to a guest."""
    policy = _policy(arguments)
    simulated = policy is not None and policy.roots.simulated

    def answer() -> Answer:
        from attestation.commands.verify_gpu import device_answer

        return device_answer(arguments, policy)

    return _tell(answer, arguments, simulated=simulated)


def _tell(
    answer: Callable[[], Answer],
    arguments: argparse.Namespace,
    *,
    simulated: bool,
    also: Callable[[Answer], None] | None = None,
    outlook: Callable[[Answer], tuple[Outlook, ...]] = lambda _: (),
) -> int:
    """Print the verdict, a refusal's too, and return its exit code; `also` writes it elsewhere.

    What the `outlook` holds is printed behind the verdict and changes nothing of it.
    """
    code = 0
    try:
        told = answer()
        if told.verdict == "refused":
            code = NotAffirmed.exit_code
    except Refusal as refusal:
        told, code = of_refusal(refusal, simulated=simulated), refusal.exit_code
    if also is not None:
        also(told)
    warnings = outlook(told)
    if arguments.json:
        coming = {"outlook": [one.to_json() for one in warnings]} if warnings else {}
        files.show(told.to_json() | coming)
    else:
        print(told.to_text())
        for one in warnings:
            print(printable(one.sentences()))
    return code


def endorsements_for(
    report: Report,
    path: Path | None,
    *,
    now: datetime,
    gpu: Path | None = None,
    signer: Path | None = None,
) -> Endorsements:
    """Return the collateral of `path` and the store of `gpu`, each else as the report staples.

    With a `signer`, `path` is a bundle that they signed and that has not ended `now`.
    """
    if path is None:
        found = report.endorsements
    elif signer is None:
        from attestation.endorse import FileEndorser

        found = FileEndorser(path).endorsements(report.quote)
    else:
        from attestation.bundle import MAX_BUNDLE, Bundle
        from attestation.dsse import public_key

        key = public_key(files.read(signer), name=signer.name)
        bundle = Bundle.open(files.read(path, limit=MAX_BUNDLE), signer=key, now=now)
        found = bundle.endorsements(report.quote)
    stapled = b"" if report.stapled is None else report.stapled.gpu
    return replace(found, gpu=found.gpu or stapled if gpu is None else files.read(gpu))


def _policy(arguments: argparse.Namespace) -> Policy | None:
    return None if arguments.policy is None else _relied_on(arguments)


def _relied_on(arguments: argparse.Namespace) -> Policy:
    """Load the policy; one of production must be signed, or whoever wrote the file decides."""
    policy = files.load_policy(arguments.policy, signer=arguments.policy_signer)
    policy.require_signature()
    return policy
