"""The check table: what is asked of verified evidence under a policy, and why it matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestation.authenticate import Claims
from attestation.binding import Binding
from attestation.gpu.claims import GpuClaims
from attestation.keyset import Keyset
from attestation.policy import Policy
from attestation.policy_file import Guest, PolicyFile
from attestation.tdx.claims import TcbStatus, TdReport, TdxClaims
from attestation.tdx.eventlog import EventSummary, RuntimeEvent

RUNTIME_DOMAIN = "tacit.inference/v1"
"""Domain of the RTMR3 events this product measures: one `config`, then a `model` per name."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What verified evidence states, whether or not it was bound to a keyset."""

    simulated: bool
    tdx: TdxClaims
    runtime: tuple[RuntimeEvent, ...]
    events: EventSummary
    binding: Binding | None
    """`None` for a bare quote, which nothing ties to a key or a nonce."""
    gpu: tuple[GpuClaims, ...] = ()

    @classmethod
    def of(cls, claims: Claims) -> Facts:
        """Return what authenticated evidence states."""
        return cls(
            claims.simulated,
            claims.tdx,
            claims.runtime,
            claims.events,
            claims.binding,
            claims.gpu,
        )


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


_Answer = tuple[bool, str, str]
"""Passed, expected, actual."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the check table; the remedy is the row of `id` in `attestation.codes`."""

    id: str
    why: str
    judge: Callable[[Case], _Answer]


GUEST_FIELDS = (
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
)


def register(report: TdReport, field: str) -> bytes:
    """Return the register of a reference-value set's `field`."""
    if field.startswith("rtmr"):
        return report.rtmrs[int(field[4:])]
    value: bytes = getattr(report, field)
    return value


def _measured(field: str) -> Callable[[Case], _Answer]:
    def judge(case: Case) -> _Answer:
        accepted = case.guest.accepted(field)
        actual = register(case.facts.tdx.report, field)
        expected = " or ".join(value.hex() for value in accepted)
        return actual in accepted, f"{expected} (guest {case.guest.name})", actual.hex()

    return judge


def _root(case: Case) -> _Answer:
    words = {True: "simulated", False: "intel"}
    expected, actual = case.policy.roots.simulated, case.facts.simulated
    return expected is actual, words[expected], words[actual]


def _tolerated(case: Case, status: TcbStatus) -> _Answer:
    tcb = case.file.tdx.tcb
    expected = [item.value for item in tcb.accepted_statuses]
    expected += [f"{item.status.value} until {stamp(item.until)}" for item in tcb.graces]
    until = tcb.grace_until(status)
    passed = status in tcb.accepted_statuses or (until is not None and case.now < until)
    return passed, " or ".join(expected), status.value


def _tcb_status(case: Case) -> _Answer:
    tcb = case.facts.tdx.tcb
    passed, expected, actual = _tolerated(case, tcb.status)
    short = "; ".join(f"{one.what} at {one.present} of {one.newest}" for one in tcb.short)
    return passed, expected, f"{actual} ({short})" if short else actual


def _qe_status(case: Case) -> _Answer:
    return _tolerated(case, case.facts.tdx.tcb.quoting_enclave.status)


def _advisories(case: Case) -> _Answer:
    denied = case.file.tdx.tcb.denied_advisories
    present = case.facts.tdx.tcb.advisories
    hit = set(() if denied == "none" else denied) & set(present)
    expected = "any" if denied == "none" else f"none of {', '.join(denied)}"
    return not hit, expected, ", ".join(present) or "none"


def _evaluation(case: Case) -> _Answer:
    minimum, actual = case.file.tdx.tcb.minimum_evaluation_number, case.facts.tdx.tcb.evaluation
    return actual >= minimum, f"at least {minimum}", str(actual)


def _collateral_age(case: Case) -> _Answer:
    days, issued = case.file.tdx.tcb.collateral_max_age_days, case.facts.tdx.collateral.issued
    oldest = case.now - timedelta(days=days)
    return issued > oldest, f"issued after {stamp(oldest)}", stamp(issued)


def _attributes(case: Case) -> _Answer:
    expected, actual = case.file.tdx.td_attributes, case.facts.tdx.report.td_attributes
    return expected.accepts(actual), f"{expected.value} under {expected.mask}", actual.hex()


def _xfam(case: Case) -> _Answer:
    expected, actual = case.file.tdx.xfam, case.facts.tdx.report.xfam
    return expected.accepts(actual), f"{expected.value} under {expected.mask}", actual.hex()


def _platform(case: Case) -> _Answer:
    accepted, actual = case.file.tdx.platforms, case.facts.tdx.platform.ppid.hex()
    if accepted == "any":
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


def _module_signer(case: Case) -> _Answer:
    accepted, actual = case.file.tdx.module.signer, case.facts.tdx.report.mr_signer_seam.hex()
    if accepted == "intel":
        return set(actual) == {"0"}, "intel (zeros)", actual
    return actual in accepted, " or ".join(accepted), actual


def _module_measurement(case: Case) -> _Answer:
    accepted, actual = case.file.tdx.module.measurement, case.facts.tdx.report.mr_seam.hex()
    if accepted == "any":
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


def _contents(case: Case, operation: str) -> tuple[str, ...]:
    return tuple(
        event.content
        for event in case.facts.runtime
        if (event.domain, event.operation) == (RUNTIME_DOMAIN, operation)
    )


def _runtime_events(case: Case) -> _Answer:
    """Judge the shape: an extra event may change what runs, a missing one hides it."""
    events, ours = case.facts.runtime, case.facts.events
    shape = tuple((event.domain, event.operation) for event in events)
    names = [content.partition("=")[0] for content in _contents(case, "model")]
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


def _runtime_config(case: Case) -> _Answer:
    accepted, measured = case.file.runtime.config, _contents(case, "config")
    passed = bool(measured) and set(measured) <= set(accepted)
    return passed, " or ".join(accepted), _listed(measured)


def _runtime_model(case: Case) -> _Answer:
    accepted = {f"{name}={one}" for name, many in case.file.runtime.models.items() for one in many}
    measured = _contents(case, "model")
    passed = bool(measured) and set(measured) <= accepted
    return passed, " or ".join(sorted(accepted)), _listed(measured)


def _listed(contents: tuple[str, ...]) -> str:
    return ", ".join(content[:256] for content in contents[:16]) or "none"


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


def keyset_rules(keyset: Keyset) -> tuple[Rule, ...]:
    """Return the checks of a guest that presents `keyset` to those who will send prompts."""
    posture = keyset.posture

    def retention(case: Case) -> _Answer:
        expected = case.file.keyset.retention
        return posture.retention == expected, expected, posture.retention

    def training(case: Case) -> _Answer:
        expected = case.file.keyset.training
        return posture.training == expected, expected, posture.training

    def operator(case: Case) -> _Answer:
        return _one_of(posture.operator, case.file.keyset.operators)

    def jurisdiction(case: Case) -> _Answer:
        return _one_of(posture.jurisdiction, case.file.keyset.jurisdictions)

    def audit_fields(case: Case) -> _Answer:
        accepted, actual = case.file.keyset.audit_fields, ", ".join(posture.audit) or "none"
        if accepted == "any":
            return True, "any", actual
        if accepted == "none":
            return not posture.audit, "none", actual
        return set(posture.audit) <= set(accepted), f"only {', '.join(accepted)}", actual

    def config_measured(case: Case) -> _Answer:
        measured = _contents(case, "config")
        return measured == (keyset.config,), f"measured: {_listed(measured)}", keyset.config

    def models_measured(case: Case) -> _Answer:
        measured = tuple(sorted(_contents(case, "model")))
        declared = tuple(sorted(f"{model.name}={model.manifest}" for model in keyset.models))
        return measured == declared, f"measured: {_listed(measured)}", _listed(declared)

    return (
        Rule(
            "keyset.retention", "the guest states that it keeps no prompt and no answer", retention
        ),
        Rule("keyset.training", "the guest states that it trains on nothing", training),
        Rule("keyset.operator", "the stated operator is one we deal with", operator),
        Rule("keyset.jurisdiction", "the stated jurisdiction is one we accept", jurisdiction),
        Rule(
            "keyset.audit-fields",
            "audit records carry no field beyond those we accept",
            audit_fields,
        ),
        Rule(
            "keyset.config-measured",
            "the stated configuration is the measured one",
            config_measured,
        ),
        Rule("keyset.models-measured", "the stated models are the measured ones", models_measured),
    )


def _one_of(actual: str, accepted: tuple[str, ...] | str) -> _Answer:
    if isinstance(accepted, str):
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


def closest_guest(report: TdReport, guests: tuple[Guest, ...]) -> Guest:
    """Return the set that `report` matches in most fields: values of two images never mix."""

    def matches(guest: Guest) -> int:
        return sum(register(report, field) in guest.accepted(field) for field in GUEST_FIELDS)

    return max(guests, key=matches)


def stamp(moment: datetime) -> str:
    """Write a time as RFC 3339 with whole seconds."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
