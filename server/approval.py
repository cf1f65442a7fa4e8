"""What a guest will measure and state in, and a policy; what the policy does not approve out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attestation.policy_file import PolicyFile
from attestation.types import Digest
from server.settings import PostureSettings


@dataclass(frozen=True, slots=True)
class Unapproved:
    """One thing a policy must name before its relying parties accept the guest."""

    where: str
    """Key of the policy."""
    value: str
    accepted: tuple[str, ...]
    """What the policy names there now."""


def unapproved(
    config: Digest,
    models: Mapping[str, Digest],
    *,
    posture: PostureSettings,
    audit_fields: tuple[str, ...],
    policy: PolicyFile,
) -> tuple[Unapproved, ...]:
    """Return everything of a deployment that `policy` refuses, whatever the hardware is."""
    lists = [("runtime.config", str(config), policy.runtime.config)]
    for name, manifest in models.items():
        named = policy.runtime.models.get(name, ())
        lists.append((f"runtime.models.{name}", str(manifest), named))
    keyset = policy.keyset
    if keyset.operators != "any":
        lists.append(("keyset.operators", posture.operator, keyset.operators))
    if keyset.jurisdictions != "any":
        lists.append(("keyset.jurisdictions", posture.jurisdiction, keyset.jurisdictions))
    if keyset.audit_fields != "any":
        known = () if keyset.audit_fields == "none" else keyset.audit_fields
        lists += [("keyset.audit_fields", field, known) for field in audit_fields]
    return tuple(
        Unapproved(where, value, tuple(named))
        for where, value, named in lists
        if value not in named
    )
