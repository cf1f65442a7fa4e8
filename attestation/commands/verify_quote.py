"""Files about a bare quote in; the verdict of the first collateral and an outlook by others out."""

from __future__ import annotations

import argparse
import hmac
from datetime import datetime
from pathlib import Path

from attestation.appraise import appraise_facts
from attestation.authenticate import Roots, replayed_events
from attestation.codec import unhex
from attestation.commands import files
from attestation.errors import NotAuthentic, Refusal
from attestation.explain import Answer, as_of, of_appraisal, of_authentic, of_refusal
from attestation.facts import Facts
from attestation.outlook import Outlook
from attestation.policy import Policy, intel_roots
from attestation.tdx.claims import TdxClaims
from attestation.tdx.eventlog import NO_EVENTS, EventLog
from attestation.tdx.stated import claimed_begin


def quote_answer(
    arguments: argparse.Namespace, policy: Policy | None, *, collateral: Path, at: datetime
) -> Answer:
    """Verify the quote of `arguments` under one collateral at a time; raises a `Refusal`."""
    roots = _roots(policy)
    tdx = roots.quotes.verify(files.read(arguments.file), files.read(collateral), now=at)
    if arguments.report_data is not None:
        wanted = unhex(arguments.report_data, size=64, what="report data")
        if not hmac.compare_digest(wanted, tdx.report.report_data):
            raise NotAuthentic("binding-mismatch", "REPORT_DATA is not the expected one")
    facts = _facts(arguments.event_log, tdx, simulated=roots.simulated)
    if policy is None:
        return as_of(of_authentic(facts), at)
    return as_of(of_appraisal(appraise_facts(facts, policy, now=at), facts, now=at), at)


def outlooks(
    arguments: argparse.Namespace, policy: Policy | None, decided: Answer
) -> tuple[Outlook, ...]:
    """Judge the quote by every collateral but the first, which decided.

    One that is not valid yet is judged as of when it begins: that is what it warns of.
    """
    return tuple(
        _outlook(path, arguments, policy, decided=decided) for path in arguments.collateral[1:]
    )


def _outlook(
    path: Path, arguments: argparse.Namespace, policy: Policy | None, *, decided: Answer
) -> Outlook:
    moment: datetime = arguments.at
    try:
        moment = max(moment, claimed_begin(files.read(path)))
        answer = quote_answer(arguments, policy, collateral=path, at=moment)
    except Refusal as refusal:
        answer = of_refusal(refusal, simulated=_roots(policy).simulated)
    return Outlook(path.name, moment, answer, decided)


def _roots(policy: Policy | None) -> Roots:
    return intel_roots() if policy is None else policy.roots


def _facts(event_log: Path | None, tdx: TdxClaims, *, simulated: bool) -> Facts:
    if event_log is None:
        return Facts(simulated, tdx, (), NO_EVENTS, binding=None)
    text = files.read(event_log)
    is_json = text.lstrip()[:1] == b"["
    log = EventLog.parse_dstack(text) if is_json else EventLog.parse(text)
    return Facts(simulated, tdx, *replayed_events(log, tdx), binding=None)
