"""The rules of one key, beyond its appraisal policy: whose, when, how often, with whose consent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from attestation.appraise import Affirmed
from attestation.authenticate import Claims
from attestation.broker.keyfile import WrappedResource
from attestation.codec import Document, canonical_json, length_prefixed
from attestation.errors import NotAffirmed
from attestation.gpu.report import Kind
from attestation.keyset import Name
from attestation.types import Digest

Submod = Annotated[str, StringConstraints(pattern=r"^(cpu0|(gpu|switch)[0-9]{1,2})$")]


class Releases(Document):
    """How often one guest may be released the key: `most` times in any `hours` hours."""

    most: Annotated[int, Field(ge=1, le=100_000)]
    hours: Annotated[int, Field(ge=1, le=24 * 31)]


class KeyRules(Document):
    """Every rule is spelled out; `any`, `never` and 0 are words, not omissions."""

    tenant: Name
    """Whose key it is; written into every release."""
    not_before: AwareDatetime | Literal["any"]
    not_after: AwareDatetime | Literal["never"]
    submods: Annotated[tuple[Submod, ...], Field(min_length=1, max_length=64)]
    """Parts of the guest that must be attested, in EAR's names; the policy says how."""
    releases: Releases
    approvals: Annotated[int, Field(ge=0, le=5)]
    """How many people must approve a guest before it is released the key; 2 for two-person."""

    @model_validator(mode="after")
    def _possible(self) -> KeyRules:
        if "cpu0" not in self.submods:
            raise ValueError("submods does not name cpu0, whose quote everything rests on")
        if len(set(self.submods)) != len(self.submods):
            raise ValueError("a submod is named twice")
        begin, end = self.not_before, self.not_after
        if isinstance(begin, datetime) and isinstance(end, datetime) and begin >= end:
            raise ValueError("not_before is not before not_after; nothing would be released")
        return self

    @property
    def digest(self) -> Digest:
        """SHA-256("tacit/v1/key-rules" ‖ lp(canonical JSON)), written into every release."""
        content = canonical_json(self.model_dump(mode="json"))
        return Digest.sha256(b"tacit/v1/key-rules" + length_prefixed(content))


SIMULATED = KeyRules(
    tenant="simulated",
    not_before="any",
    not_after="never",
    submods=("cpu0",),
    releases=Releases(most=100_000, hours=1),
    approvals=0,
)
"""What a simulated broker applies where its file has no rules; production must write its own."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One guest wants one version of one key; what the ledger decides about."""

    resource: str
    key: Digest
    guest: Digest
    rules: KeyRules

    @property
    def id(self) -> str:
        """The name people approve by: it covers the resource, the key's version and the guest."""
        parts = length_prefixed(self.resource.encode(), self.key.value, self.guest.value)
        return Digest.sha256(b"tacit/v1/request" + parts).value.hex()


def ask(wrapped: WrappedResource, affirmed: Affirmed, *, rules: KeyRules, now: datetime) -> Ask:
    """Return what the ledger must decide about, or raise `NotAffirmed` for what rules say alone."""
    if isinstance(rules.not_before, datetime) and now < rules.not_before:
        raise NotAffirmed("key-not-yet", f"{wrapped.resource} is released from {rules.not_before}")
    if isinstance(rules.not_after, datetime) and now >= rules.not_after:
        raise NotAffirmed("key-ended", f"{wrapped.resource} was released until {rules.not_after}")
    missing = set(rules.submods) - submods(affirmed.claims)
    if missing:
        raise NotAffirmed("submod-missing", f"not attested: {', '.join(sorted(missing))}")
    return Ask(wrapped.resource, key_digest(wrapped), guest_digest(affirmed.claims), rules)


def submods(claims: Claims) -> frozenset[str]:
    """Return the parts of a guest that its evidence covers, in EAR's names."""
    gpus = sum(device.kind is Kind.GPU for device in claims.gpu)
    switches = len(claims.gpu) - gpus
    names = [f"gpu{n}" for n in range(gpus)] + [f"switch{n}" for n in range(switches)]
    return frozenset(["cpu0", *names])


def guest_digest(claims: Claims) -> Digest:
    """Return what a guest is counted and approved by: its machine and everything it measured.

    A quote holds nothing that changes from boot to boot, and keys a guest makes are its own word.
    So this is the processor (PPID) with MRTD, RTMR0-3, MRCONFIGID, MROWNER and MROWNERCONFIG: a
    restart is the same guest, which is what stops a host that restarts one to have a key released
    again and again; several guests of one image on one machine share one count.
    """
    report = claims.tdx.report
    parts = length_prefixed(
        claims.tdx.platform.ppid,
        report.mrtd,
        *report.rtmrs,
        report.mr_config_id,
        report.mr_owner,
        report.mr_owner_config,
    )
    return Digest.sha256(b"tacit/v1/guest" + parts)


def key_digest(wrapped: WrappedResource) -> Digest:
    """Name one version of a key, whichever KEK wraps it; what is revoked, and stays so."""
    return Digest.sha256(b"tacit/v1/key" + length_prefixed(wrapped.aad))


def document_digest(wrapped: WrappedResource) -> Digest:
    """Name a wrapped key as it is written, KEK and all."""
    return Digest.sha256(canonical_json(wrapped.model_dump(mode="json")))
