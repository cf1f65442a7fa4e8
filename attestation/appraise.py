"""Claims and a policy in, an attestation result out: every check of the table answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, NewType, NoReturn

from attestation.authenticate import Claims
from attestation.binding import KeysetBinding
from attestation.checks import RULES, Case, closest_guest
from attestation.checks_gpu import GpuCase, device_rows, gpu_rules, word_ends, words_end
from attestation.checks_keyset import KEYSET_RULES
from attestation.codes import CODES
from attestation.errors import NotAffirmed
from attestation.facts import Facts
from attestation.gpu.claims import GpuClaims
from attestation.policy import Policy
from attestation.policy_file import stamp
from attestation.types import Digest

_RULES = RULES + KEYSET_RULES


class Check(NamedTuple):
    """One question, answered; the texts hold ids, digests, numbers and dates only.

    A tuple, because every verification makes forty.
    """

    id: str
    passed: bool
    expected: str
    actual: str
    why: str
    """The sentence that is true when the check passes."""
    next: str
    """What to do when it does not."""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Every check answered; not a truth value, because acting on one is `affirmed`'s to allow."""

    policy: str
    policy_digest: Digest
    checks: tuple[Check, ...]
    expires_at: datetime
    guest: str
    """Name of the reference-value set that matches, or comes closest."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass, in the order of the table."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def code(self) -> str | None:
        """The id of the first failed check: the stable code of this refusal."""
        if not self.checks:
            return "result-empty"
        return next((check.id for check in self.checks if not check.passed), None)

    def __bool__(self) -> NoReturn:
        raise TypeError("an appraisal is no truth value; call affirmed(now)")


@dataclass(frozen=True, slots=True)
class AttestationResult(Appraisal):
    """RFC 9334's Attestation Result for one guest under one policy."""

    claims: Claims

    def affirmed(self, now: datetime) -> Affirmed:
        """Return what a Relying Party may act on, or raise `NotAffirmed`.

        The code is the id of the first failed check, or `result-expired`.
        """
        if (code := self.code) is not None:
            ids = ", ".join(check.id for check in self.failed)
            raise NotAffirmed(code, f"policy {self.policy} refuses: {ids}")
        if now >= self.expires_at:
            raise NotAffirmed("result-expired", f"the result ended at {stamp(self.expires_at)}")
        return Affirmed(_Affirmed(self.claims, self.policy_digest, self.expires_at))


@dataclass(frozen=True, slots=True)
class _Affirmed:
    claims: Claims
    policy_digest: Digest
    expires_at: datetime


Affirmed = NewType("Affirmed", _Affirmed)
"""Claims a policy accepts; all that `release` and the client act on. Only `affirmed` makes one."""


def appraise(claims: Claims, policy: Policy, *, now: datetime) -> AttestationResult:
    """Answer every check that applies to `claims`; never raises, never stops early."""
    checks, ends, guest = _answers(claims, policy, now)
    ends = min(ends, claims.expires_at)
    return AttestationResult(policy.name, policy.digest, checks, ends, guest, claims)


def appraise_facts(facts: Facts, policy: Policy, *, now: datetime) -> Appraisal:
    """Answer every check that applies to `facts`; a bare quote can be appraised, not affirmed."""
    return Appraisal(policy.name, policy.digest, *_answers(facts, policy, now))


def _answers(
    facts: Facts, policy: Policy, now: datetime
) -> tuple[tuple[Check, ...], datetime, str]:
    """Return the checks, when the first of them would turn, and the name of the closest guest."""
    case = Case(facts, policy, closest_guest(facts.tdx.report, policy.file.tdx.guests), now)
    rules = _RULES if isinstance(facts.binding, KeysetBinding) else RULES
    rules += gpu_rules(facts, policy)
    checks = tuple([Check(rule.id, *rule.judge(case), rule.why, CODES[rule.id]) for rule in rules])
    return checks, _expiry(case), case.guest.name


def appraise_device(device: GpuClaims, policy: Policy, *, now: datetime) -> Appraisal:
    """Answer what one device can be asked alone; how many there are is a question of the guest.

    Raises `NotAffirmed` `gpu.count` under a policy for guests without GPUs.
    """
    expected = policy.file.gpu
    if expected == "none":
        raise NotAffirmed("gpu.count", f"policy {policy.name} has no place for a GPU")
    case = GpuCase((device,), expected, now)
    checks = tuple(
        Check(row.id, *row.judge(case), row.why, CODES[row.id]) for row in device_rows(device)
    )
    ends = min([device.expires, *word_ends(case)])
    return Appraisal(policy.name, policy.digest, checks, ends, guest="")


def _expiry(case: Case) -> datetime:
    """Return the earliest moment at which some check would turn."""
    tdx, tcb = case.facts.tdx, case.file.tdx.tcb
    ends = [
        tdx.collateral.expires,
        tdx.collateral.issued + timedelta(days=tcb.collateral_max_age_days),
    ]
    for status in (tdx.tcb.status, tdx.tcb.quoting_enclave.status):
        until = tcb.grace_until(status)
        if until is not None:
            ends.append(until)
    return min([*ends, *words_end(case)])
