"""The attestation result as an EAR token: an affirmed guest in, a signed JWT out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.appraise import Affirmed
from attestation.broker.protocol import Attestation, tee_pubkey
from attestation.codec import b64url, canonical_json
from attestation.errors import ConfigError
from attestation.types import Digest

LIFETIME = timedelta(minutes=5)
_PROFILE = "tag:github.com,2024:confidential-containers/Trustee"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """The broker's ES256 signing key, and its name: the RFC 7638 thumbprint."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, pem: bytes, *, name: str) -> TokenKey:
        """Read an unencrypted P-256 private key, or raise `ConfigError`."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigError("token-key", f"{name} is not an unencrypted private key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ConfigError("token-key", f"{name} is not a P-256 key")
        return cls(key)

    @property
    def jwk(self) -> dict[str, str]:
        """The public half as a JWK with its `kid`."""
        point = tee_pubkey(self.private.public_key())
        members = {name: point[name] for name in ("crv", "kty", "x", "y")}
        thumbprint = hashlib.sha256(canonical_json(members)).digest()
        return members | {"kid": b64url(thumbprint), "alg": "ES256", "use": "sig"}

    @property
    def jwks(self) -> bytes:
        """The JWK set a relying party trusts; `kid` of every token leads into it."""
        return json.dumps({"keys": [self.jwk]}).encode()

    def sign(self, claims: dict[str, Any]) -> str:
        """Return `claims` as a compact JWS (RFC 7515, ES256: r ‖ s of 32 bytes each)."""
        header = {"alg": "ES256", "kid": self.jwk["kid"], "typ": "JWT"}
        signed = ".".join(b64url(canonical_json(part)) for part in (header, claims))
        r, s = decode_dss_signature(self.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def ear_claims(
    affirmed: Affirmed, attestation: Attestation, *, policy: Digest, now: datetime
) -> dict[str, Any]:
    """Return the claims with the dotted names Trustee emits and reads (KBS 0.4.0).

    A simulated guest is `contraindicated` with hardware 97 (AR4SI: not genuine), whatever the
    policy here says: nobody else may take our simulator for a machine.
    """
    tdx = affirmed.claims.tdx
    report = tdx.report
    simulated = affirmed.claims.simulated
    expires = min(now + LIFETIME, affirmed.expires_at)
    body = {
        "mr_td": report.mrtd.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        **{f"rtmr_{n}": value.hex() for n, value in enumerate(report.rtmrs)},
    }
    vector = {
        "instance-identity": 0,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 97 if simulated else 2,
        "runtime-opaque": 0,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    binding = attestation.binding
    annotated = {
        "tdx": {
            "quote": {"body": body},
            "tcb_status": tdx.tcb.status.value,
            "advisory_ids": list(tdx.tcb.advisories),
        },
        "report_data": report.report_data.hex(),
        "runtime_data_claims": {
            "nonce": binding.nonce,
            "tee-pubkey": dict(binding.tee_pubkey),
            "additional-evidence": binding.additional_evidence,
        },
    }
    return {
        "eat_profile": _PROFILE,
        "eat_nonce": binding.nonce,
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "iss": "tacit-broker",
        "ear.verifier-id": {"developer": "tacit", "build": "tacit-broker 1"},
        "submods": {
            "cpu0": {
                "ear.status": "contraindicated" if simulated else "affirming",
                "ear.appraisal-policy-id": str(policy),
                "ear.trustworthiness-vector": vector,
                "ear.veraison.annotated-evidence": annotated,
                "tacit.simulated": simulated,
            }
        },
    }
