"""An affirmed guest that speaks KBS in; the claims of its EAR token out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attestation.appraise import Affirmed
from attestation.broker.protocol import Attestation
from attestation.ear import LIFETIME, PROFILE, TokenKey, cpu_submod
from attestation.types import Digest

__all__ = ["LIFETIME", "TokenKey", "ear_claims"]


def ear_claims(
    affirmed: Affirmed, attestation: Attestation, *, policy: Digest, now: datetime
) -> dict[str, Any]:
    """Return the claims with the dotted names Trustee emits and reads (KBS 0.4.0)."""
    binding = attestation.binding
    runtime = {
        "nonce": binding.nonce,
        "tee-pubkey": dict(binding.tee_pubkey),
        "additional-evidence": binding.additional_evidence,
    }
    return {
        "eat_profile": PROFILE,
        "eat_nonce": binding.nonce,
        "iat": int(now.timestamp()),
        "exp": int(min(now + LIFETIME, affirmed.expires_at).timestamp()),
        "iss": "tacit-broker",
        "ear.verifier-id": {"developer": "tacit", "build": "tacit-broker 1"},
        "submods": {"cpu0": cpu_submod(affirmed.claims, policy=policy, failed=(), runtime=runtime)},
    }
