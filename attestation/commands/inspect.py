"""`tacit inspect`: the fields of a quote or report as they claim to be, with nothing checked."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import Malformed
from attestation.explain import printable
from attestation.report import Report, looks_like_report
from attestation.tdx.eventlog import EventLog
from attestation.tdx.layout import claimed_body, decode_report

UNCHECKED = "unchecked: anybody can write this; `tacit verify` says what of it holds"


def register(commands: Commands) -> None:
    """Add `inspect`."""
    parser = commands.add_parser("inspect", help="show the fields of a quote or report, unchecked")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--events", type=int, choices=range(4), metavar="RTMR", help="list the log's events of 0..3"
    )
    files.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what the file claims."""
    data = files.read(arguments.file)
    shown: dict[str, Any] = {"unchecked": True}
    if looks_like_report(data):
        report = Report.parse(data)
        shown |= {"kind": "report", **_report_fields(report), "quote": quote_fields(report.quote)}
        if arguments.events is not None:
            shown["events"] = _events(report.event_log, rtmr=arguments.events)
    elif not 0 < int.from_bytes(data[:2], "little") < 10:  # where quotes have their version
        raise Malformed("file-kind", f"{arguments.file.name} is neither a report nor a quote")
    else:
        shown |= {"kind": "quote", "quote": quote_fields(data)}
    if arguments.json:
        files.show(shown)
    else:
        print(UNCHECKED)
        _print(shown, indent="")
    return 0


def quote_fields(quote: bytes) -> dict[str, Any]:
    """Return the claimed fields of a version 4 or 5 quote, as hex."""
    report = decode_report(claimed_body(quote))
    svn2, extension = report.tee_tcb_svn2, report.extension
    extended = {} if extension is None else asdict(extension)
    return {
        "version": int.from_bytes(quote[:2], "little"),
        "bytes": len(quote),
        "mrtd": report.mrtd.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_signer_seam": report.mr_signer_seam.hex(),
        "mr_service_td": report.mr_service_td.hex(),
        "seam_attributes": report.seam_attributes.hex(),
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        "report_data": report.report_data.hex(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "tee_tcb_svn2": None if svn2 is None else svn2.hex(),
        **{n: v.hex() if isinstance(v, bytes) else v for n, v in extended.items()},
    }


def _report_fields(report: Report) -> dict[str, Any]:
    saved = report.verification
    return {
        "nonce": report.nonce.hex(),
        "keyset": report.keyset.model_dump(mode="json"),
        "event_log_bytes": len(report.event_log),
        "collateral_bytes": None if report.stapled is None else len(report.stapled.tdx),
        "saved_at": None if saved is None else saved.verified_at.isoformat(),
    }


def _events(log: bytes, *, rtmr: int) -> list[dict[str, Any]]:
    events = [event for event in EventLog.parse(log).events if event.rtmr == rtmr]
    return [
        {"type": f"{event.event_type:#x}", "digest": event.digest.hex(), "data": _data(event.data)}
        for event in events
    ]


def _data(data: bytes) -> str:
    """Show printable text as text; the terminal gets no control characters from a stranger."""
    text = data[8:].decode("utf-8", "replace") if len(data) > 8 else ""  # after a tagged head
    return text if text.isprintable() and text else data[:256].hex()


def _print(value: dict[str, Any], *, indent: str) -> None:
    for name, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{name}:")
            _print(item, indent=indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            print(f"{indent}{name}:")
            for entry in item:
                print(f"{indent}  -")
                _print(entry, indent=indent + "    ")
        else:
            print(printable([f"{indent}{name}: {item}"]))
