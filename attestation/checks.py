"""The check table: what is asked of verified evidence under a policy, and why it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from attestation.facts import Facts
from attestation.policy import Policy
from attestation.policy_file import GUEST_FIELDS, Guest, PolicyFile, stamp
from attestation.tdx.claims import TcbStatus, TdReport

RUNTIME_DOMAIN = "tacit.inference/v1"
"""Domain of the RTMR3 events this product measures: one `config`, then a `model` per name."""


@dataclass(frozen=True, slots=True)
class Case:
    """Facts under a policy at a time, with the reference-value set they come closest to."""

    facts: Facts
    policy: Policy
    guest: Guest
    now: datetime

    @property
    def file(self) -> PolicyFile:
        """The expectations."""
        return self.policy.file


Answer = tuple[bool, str, str]
"""Passed, expected, actual."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the check table; the remedy is the row of `id` in `attestation.codes`."""

    id: str
    why: str
    judge: Callable[[Case], Answer]


_REGISTERS: Mapping[str, Callable[[TdReport], bytes]] = MappingProxyType(
    {
        "mrtd": lambda report: report.mrtd,
        "rtmr0": lambda report: report.rtmrs[0],
        "rtmr1": lambda report: report.rtmrs[1],
        "rtmr2": lambda report: report.rtmrs[2],
        "mr_config_id": lambda report: report.mr_config_id,
        "mr_owner": lambda report: report.mr_owner,
        "mr_owner_config": lambda report: report.mr_owner_config,
    }
)


def register(report: TdReport, field: str) -> bytes:
    """Return the register of a reference-value set's `field`."""
    return _REGISTERS[field](report)


def _measured(field: str) -> Callable[[Case], Answer]:
    read = _REGISTERS[field]

    def judge(case: Case) -> Answer:
        actual = read(case.facts.tdx.report)
        return actual in case.guest.accepted[field], case.guest.words[field], actual.hex()

    return judge


def _root(case: Case) -> Answer:
    words = {True: "simulated", False: "intel"}
    expected, actual = case.policy.roots.simulated, case.facts.simulated
    return expected is actual, words[expected], words[actual]


def _tolerated(case: Case, status: TcbStatus) -> Answer:
    tcb = case.file.tdx.tcb
    until = tcb.grace_until(status)
    passed = status in tcb.accepted_statuses or (until is not None and case.now < until)
    return passed, tcb.words, status.value


def _tcb_status(case: Case) -> Answer:
    tcb = case.facts.tdx.tcb
    passed, expected, actual = _tolerated(case, tcb.status)
    short = "; ".join(f"{one.what} at {one.present} of {one.newest}" for one in tcb.short)
    return passed, expected, f"{actual} ({short})" if short else actual


def _qe_status(case: Case) -> Answer:
    return _tolerated(case, case.facts.tdx.tcb.quoting_enclave.status)


def _advisories(case: Case) -> Answer:
    denied = case.file.tdx.tcb.denied_advisories
    present = case.facts.tdx.tcb.advisories
    actual = ", ".join(present) or "none"
    if denied == "none":
        return True, "any", actual
    return set(denied).isdisjoint(present), f"none of {', '.join(denied)}", actual


def _evaluation(case: Case) -> Answer:
    minimum, actual = case.file.tdx.tcb.minimum_evaluation_number, case.facts.tdx.tcb.evaluation
    return actual >= minimum, f"at least {minimum}", str(actual)


def _collateral_age(case: Case) -> Answer:
    days = case.file.tdx.tcb.collateral_max_age_days
    return recent(case.facts.tdx.collateral.issued, days=days, now=case.now)


def recent(issued: datetime | None, *, days: int, now: datetime) -> Answer:
    """Say whether a statement is less than `days` old; one that is not there is not."""
    passed = issued is not None and now - issued < timedelta(days=days)
    actual = "none" if issued is None else f"issued {stamp(issued)}"
    return passed, f"at most {days} days old", actual


def _attributes(case: Case) -> Answer:
    expected, actual = case.file.tdx.td_attributes, case.facts.tdx.report.td_attributes
    return expected.accepts(actual), f"{expected.value} under {expected.mask}", actual.hex()


def _xfam(case: Case) -> Answer:
    expected, actual = case.file.tdx.xfam, case.facts.tdx.report.xfam
    return expected.accepts(actual), f"{expected.value} under {expected.mask}", actual.hex()


def _platform(case: Case) -> Answer:
    accepted, actual = case.file.tdx.platforms, case.facts.tdx.platform.ppid.hex()
    if accepted == "any":
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


def _platform_kind(case: Case) -> Answer:
    accepted, platform = case.file.tdx.platform_kind, case.facts.tdx.platform
    if accepted == "any":
        return True, "any", platform.words
    return accepted.accepts(platform), accepted.words, platform.words


def _module_signer(case: Case) -> Answer:
    accepted, actual = case.file.tdx.module.signer, case.facts.tdx.report.mr_signer_seam.hex()
    if accepted == "intel":
        return set(actual) == {"0"}, "intel (zeros)", actual
    return actual in accepted, " or ".join(accepted), actual


def _module_measurement(case: Case) -> Answer:
    accepted, actual = case.file.tdx.module.measurement, case.facts.tdx.report.mr_seam.hex()
    if accepted == "any":
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


def contents(case: Case, operation: str) -> tuple[str, ...]:
    """Return what the guest measured under one of our operations, in order."""
    return tuple(
        [
            event.content
            for event in case.facts.runtime
            if event.operation == operation and event.domain == RUNTIME_DOMAIN
        ]
    )


def _runtime_events(case: Case) -> Answer:
    """Judge the shape: an extra event may change what runs, a missing one hides it."""
    events, ours = case.facts.runtime, case.facts.events
    shape = tuple((event.domain, event.operation) for event in events)
    names = [content.partition("=")[0] for content in contents(case, "model")]
    wanted = ((RUNTIME_DOMAIN, "config"), *[(RUNTIME_DOMAIN, "model")] * (len(events) - 1))
    passed = (
        ours.present
        and ours.unexplained_rtmr3 == 0
        and len(events) > 1
        and shape == wanted
        and len(set(names)) == len(names)
    )
    seen = [event.operation if event.domain == RUNTIME_DOMAIN else "foreign" for event in events]
    seen += ["unexplained"] * ours.unexplained_rtmr3
    actual = ", ".join(word[:32] for word in seen[:16]) if ours.present else "no event log"
    return passed, "config, then one model per served name", actual or "no events"


def _runtime_config(case: Case) -> Answer:
    accepted, measured = case.file.runtime.config, contents(case, "config")
    passed = bool(measured) and set(measured) <= set(accepted)
    return passed, " or ".join(accepted), listed(measured)


def _runtime_model(case: Case) -> Answer:
    accepted, measured = case.file.runtime.served, contents(case, "model")
    passed = bool(measured) and set(measured) <= set(accepted)
    return passed, " or ".join(accepted), listed(measured)


def listed(measured: tuple[str, ...]) -> str:
    """Write what was measured, cut to a readable length."""
    return ", ".join(content[:256] for content in measured[:16]) or "none"


RULES: tuple[Rule, ...] = (
    Rule("root.simulated", "the evidence is signed under the root this policy trusts", _root),
    Rule("tdx.tcb-status", "Intel holds the platform's firmware to be acceptable", _tcb_status),
    Rule("tdx.qe-status", "Intel holds the quoting enclave to be acceptable", _qe_status),
    Rule("tdx.advisories", "no advisory that this policy denies applies", _advisories),
    Rule(
        "tdx.evaluation-number",
        "Intel's tables are recent enough to know of late fixes",
        _evaluation,
    ),
    Rule(
        "tdx.collateral-age",
        "Intel's statements are recent enough for this policy",
        _collateral_age,
    ),
    Rule(
        "tdx.attributes",
        "the guest cannot be debugged and has the expected attributes",
        _attributes,
    ),
    Rule("tdx.xfam", "the guest uses the expected CPU features and no others", _xfam),
    Rule("tdx.platform", "the guest runs on a processor this policy names", _platform),
    Rule("tdx.platform-kind", "the machine is built as this policy expects", _platform_kind),
    Rule("tdx.module-signer", "the TDX module is signed by whom we expect", _module_signer),
    Rule("tdx.module-measurement", "the TDX module is one this policy names", _module_measurement),
    Rule("tdx.mrtd", "the firmware that booted is one we built", _measured("mrtd")),
    Rule("tdx.rtmr0", "the shape of the virtual machine is one we chose", _measured("rtmr0")),
    Rule("tdx.rtmr1", "the kernel that booted is one we built", _measured("rtmr1")),
    Rule(
        "tdx.rtmr2", "the command line and initrd that booted are ones we built", _measured("rtmr2")
    ),
    Rule(
        "tdx.mr-config-id",
        "the host started the guest with a configuration we chose",
        _measured("mr_config_id"),
    ),
    Rule("tdx.mr-owner", "the guest belongs to the owner we expect", _measured("mr_owner")),
    Rule(
        "tdx.mr-owner-config",
        "the owner's configuration is one we expect",
        _measured("mr_owner_config"),
    ),
    Rule(
        "runtime.events",
        "the guest measured a configuration and its models, and nothing else",
        _runtime_events,
    ),
    Rule("runtime.config", "the configuration it serves under is one we approved", _runtime_config),
    Rule("runtime.model", "every model it serves is one we approved", _runtime_model),
)
"""Checks of every guest, in the order they are reported."""


def closest_guest(report: TdReport, guests: tuple[Guest, ...]) -> Guest:
    """Return the set that `report` matches in most fields: values of two images never mix."""
    if len(guests) == 1:
        return guests[0]

    def matches(guest: Guest) -> int:
        return sum(register(report, field) in guest.accepted[field] for field in GUEST_FIELDS)

    return max(guests, key=matches)
