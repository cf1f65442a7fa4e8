"""`tacit explain`: every check of a saved report, or one, with what it expects and why."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError, NotAffirmed
from attestation.explain import SIMULATED, check_json, check_text, printable
from attestation.policy import Policy
from attestation.report import Report
from attestation.tdx.eventlog import Event, EventLog
from attestation.tdx.logdiff import Difference, differences, event_type_name


def register(commands: Commands) -> None:
    """Add `explain`."""
    parser = commands.add_parser("explain", help="explain the checks of a saved report")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="what `verify service --save` wrote"
    )
    parser.add_argument("check", nargs="?", metavar="CHECK", help="a check id, such as tdx.mrtd")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="default: the one in the file")
    parser.add_argument("--collateral", type=Path, metavar="FILE")
    parser.add_argument("--collateral-signer", type=Path, metavar="PEM")
    parser.add_argument("--gpu-endorsements", type=Path, metavar="FILE")
    parser.add_argument(
        "--reference-log",
        type=Path,
        metavar="FILE",
        help="the event log of a guest you trust: show which events differ from it",
    )
    parser.add_argument(
        "--at", type=files.moment, metavar="TIME", help="default: when it was saved"
    )
    files.add_policy_signer(parser)
    files.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge the report again and print each check; exit 5 when one shown does not pass."""
    from attestation.commands.verify import of_report

    report = files.saved_report(files.read(arguments.file), name=arguments.file.name)
    policy = _policy(arguments.policy, report, signer=arguments.policy_signer)
    answer = of_report(report, policy, arguments=arguments)
    wanted = [check for check in answer.checks if arguments.check in (None, check.id)]
    if not wanted:
        raise ConfigError("argument-invalid", "the report has no check of that id")
    changes = None
    if arguments.reference_log is not None:  # the log is authentic: it replays to the quote
        reference = EventLog.parse(files.read(arguments.reference_log))
        log = EventLog.parse(report.event_log) if report.event_log else EventLog((), 0)
        changes = differences(log, reference)
    if arguments.json:
        shown: object = [check_json(check) for check in wanted]
        if changes is not None:
            shown = {"checks": shown, "differences": [_change_json(one) for one in changes]}
        files.show(shown)
    else:
        if answer.simulated:
            print(SIMULATED)
        whose = "the policy kept in this file" if arguments.policy is None else "the policy"
        print(f"under {whose}, {policy.name} {policy.digest}")
        for check in wanted:
            print(printable(check_text(check)))
        if changes is not None:
            print(printable(_change_text(changes)))
    return 0 if all(check.passed for check in wanted) else NotAffirmed.exit_code


def _change_text(changes: tuple[Difference, ...]) -> Iterator[str]:
    """Say which measurements differ from those of the reference log."""
    yield f"  {len(changes)} event(s) differ from the reference log"
    for one in changes:
        yield f"  RTMR{one.rtmr} event {one.position}: {one.change}"
        for word, event in (("expected", one.expected), ("actual  ", one.actual)):
            if event is not None:
                yield f"      {word} {event_type_name(event)} {event.digest.hex()}"
                yield f"               {_event_words(event)}"


def _change_json(one: Difference) -> dict[str, object]:
    def side(event: Event | None) -> dict[str, str] | None:
        if event is None:
            return None
        words = _event_words(event)
        return {"type": event_type_name(event), "digest": event.digest.hex(), "data": words}

    return {
        "rtmr": one.rtmr,
        "position": one.position,
        "change": one.change,
        "expected": side(one.expected),
        "actual": side(one.actual),
    }


def _event_words(event: Event) -> str:
    """Return the start of an event's data as text where it is text, else as hex."""
    data = event.data[8:] if event_type_name(event) == "EV_EVENT_TAG" else event.data
    text = data.rstrip(b"\0").decode("utf-8", "replace")
    return text[:160] if text.isprintable() and text else event.data[:64].hex()


def _policy(path: Path | None, report: Report, *, signer: Path | None) -> Policy:
    if path is not None:
        return files.load_policy(path, signer=signer)
    if report.verification is None:
        raise ConfigError("argument-invalid", "the report holds no policy; give one with --policy")
    return Policy.load(report.verification.policy.encode(), name="the saved policy")
