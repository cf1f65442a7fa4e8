"""What a guest will measure and state in, and a policy; what the policy does not approve out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attestation.keyset import Posture
from attestation.policy_file import PolicyFile
from attestation.types import Digest


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
    posture: Posture,
    policy: PolicyFile,
) -> tuple[Unapproved, ...]:
    """Return everything of a deployment that `policy` refuses, whatever hardware and engine are."""
    lists = [("runtime.config", str(config), policy.runtime.config)]
    for name, manifest in models.items():
        named = policy.runtime.models.get(name, ())
        lists.append((f"runtime.models.{name}", str(manifest), named))
    keyset = policy.keyset
    if keyset.operators != "any":
        lists.append(("keyset.operators", posture.operator, keyset.operators))
    if keyset.jurisdictions != "any":
        lists.append(("keyset.jurisdictions", posture.jurisdiction, keyset.jurisdictions))
    for where, stated, most in (
        ("keyset.audit_fields", posture.audit, keyset.audit_fields),
        ("keyset.telemetry", posture.telemetry, keyset.telemetry),
    ):
        if most != "any":
            lists += [(where, name, () if most == "none" else most) for name in stated]
    if keyset.filters != "any":
        exact = () if keyset.filters == "none" else keyset.filters
        lists.append(("keyset.filters", _together(posture.filters), (_together(exact),)))
    return tuple(
        Unapproved(where, value, tuple(named))
        for where, value, named in lists
        if value not in named
    )


def _together(names: tuple[str, ...]) -> str:
    """Write a set that is accepted as a whole."""
    return ", ".join(sorted(names)) or "none"
