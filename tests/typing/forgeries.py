"""Lines that must not type-check; mypy's `warn_unused_ignores` fails the day one becomes legal."""

from datetime import datetime

from attestation.appraise import Affirmed, AttestationResult, appraise
from attestation.authenticate import Claims, Roots
from attestation.broker.kek import Kek
from attestation.broker.release import Resource, release
from attestation.evidence import Evidence
from attestation.policy import Policy
from attestation.report import Report
from attestation.tdx.claims import TdxClaims
from attestation.types import Endorsements, Nonce


def evidence_has_no_accessor_for_what_it_claims(evidence: Evidence) -> None:
    """Nothing of a quote can be read before it is authenticated."""
    print(evidence.mrtd)  # type: ignore[attr-defined]
    print(evidence.report)  # type: ignore[attr-defined]
    print(evidence.claims)  # type: ignore[attr-defined]


def endorsements_have_no_accessor_either(endorsements: Endorsements) -> None:
    """Intel's word is read after its signature is checked."""
    print(endorsements.tcb_status)  # type: ignore[attr-defined]


def a_report_is_no_claim(report: Report) -> None:
    """A report carries evidence; it states nothing."""
    print(report.tdx)  # type: ignore[attr-defined]


def claims_are_made_by_authenticate(evidence: Evidence, tdx: TdxClaims) -> None:
    """Neither evidence nor a quote's claims are the claims of a guest."""
    Claims(evidence)  # type: ignore[arg-type]
    Claims(tdx)  # type: ignore[arg-type]


def evidence_cannot_be_appraised(evidence: Evidence, policy: Policy, now: datetime) -> None:
    """Appraisal takes authenticated claims."""
    appraise(evidence, policy, now=now)  # type: ignore[arg-type]


def an_affirmation_is_made_by_a_result(
    result: AttestationResult, claims: Claims, evidence: Evidence
) -> None:
    """Only `AttestationResult.affirmed` makes what a relying party acts on."""
    Affirmed(result)  # type: ignore[arg-type]
    Affirmed(claims)  # type: ignore[arg-type]
    Affirmed(evidence)  # type: ignore[arg-type]


def a_key_is_released_to_nothing_less(
    resource: Resource, result: AttestationResult, claims: Claims, kek: Kek, now: datetime
) -> None:
    """A result that nobody asked `affirmed` of releases nothing."""
    release(resource, result, kek=kek, now=now)  # type: ignore[arg-type]
    release(resource, claims, kek=kek, now=now)  # type: ignore[arg-type]


def a_nonce_is_not_any_bytes() -> Nonce:
    """A nonce has been counted: 32 bytes."""
    return bytes(32)  # type: ignore[return-value]


def a_verified_value_does_not_change(claims: Claims, roots: Roots) -> None:
    """Frozen all the way down."""
    claims.simulated = False  # type: ignore[misc]
    roots.simulated = False  # type: ignore[misc]
