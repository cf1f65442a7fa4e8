"""Evidence, endorsements and the time in; an attestation result under one policy out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from attestation.appraise import AttestationResult, appraise
from attestation.authenticate import authenticate
from attestation.evidence import Evidence
from attestation.policy import Policy
from attestation.types import Endorsements


@dataclass(frozen=True, slots=True)
class Verifier:
    """RFC 9334's Verifier; the key broker and the client decide with this same one."""

    policy: Policy

    def verify(
        self,
        evidence: Evidence,
        endorsements: Endorsements,
        *,
        expected_nonce: bytes | str,
        now: datetime,
    ) -> AttestationResult:
        """Authenticate, then appraise.

        Raises `Malformed`, `NotAuthentic` or `Undecidable` at the first thing that does not hold;
        what is authentic is answered check by check in the result.
        """
        claims = authenticate(
            evidence,
            endorsements,
            roots=self.policy.roots,
            expected_nonce=expected_nonce,
            now=now,
        )
        return appraise(claims, self.policy, now=now)
