"""An attestation result in; an EAR token with the dotted claim names of Trustee out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.appraise import AttestationResult
from attestation.authenticate import Claims
from attestation.binding import KeysetBinding
from attestation.codec import b64url, canonical_json
from attestation.errors import ConfigError
from attestation.gpu.report import Kind
from attestation.types import Digest

LIFETIME = timedelta(minutes=5)
PROFILE = "tag:github.com,2024:confidential-containers/Trustee"


_HARDWARE = ("root.", "tdx.tcb", "tdx.qe", "tdx.adv", "tdx.ev", "tdx.coll", "tdx.pl", "tdx.mod")
_EXECUTABLES = ("tdx.mrtd", "tdx.rtmr", "runtime.model", "runtime.events", "gpu.")
"""Prefixes of the checks that speak for a claim of AR4SI; all others speak for configuration."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """The ES256 key of a verifier or broker, and its name: the RFC 7638 thumbprint."""

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
        point = self.private.public_key().public_numbers()
        x, y = (b64url(value.to_bytes(32, "big")) for value in (point.x, point.y))
        members = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
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


def cpu_submod(
    claims: Claims, *, policy: Digest, failed: tuple[str, ...], runtime: Mapping[str, Any]
) -> dict[str, Any]:
    """Return submodule `cpu0` as KBS 0.4.0 relying parties read it.

    `failed` holds the ids of checks that did not pass, `runtime` what REPORT_DATA commits to. A
    simulated guest is `contraindicated` with hardware 97 (AR4SI: not genuine), whatever the policy
    here says: nobody else may take our simulator for a machine.
    """
    tdx = claims.tdx
    report = tdx.report
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
    return {
        "ear.status": "contraindicated" if failed or claims.simulated else "affirming",
        "ear.appraisal-policy-id": str(policy),
        "ear.trustworthiness-vector": _vector(failed, simulated=claims.simulated),
        "ear.veraison.annotated-evidence": {
            "tdx": {
                "quote": {"body": body},
                "tcb_status": tdx.tcb.status.value,
                "advisory_ids": list(tdx.tcb.advisories),
            },
            "report_data": report.report_data.hex(),
            "runtime_data_claims": dict(runtime),
        },
        "tacit.simulated": claims.simulated,
    }


def result_claims(result: AttestationResult, *, now: datetime) -> dict[str, Any]:
    """Return the claims of a result about a guest that is bound to a keyset, judged at `now`.

    The token lasts as long as the result. It repeats the verdict and never improves it: a guest
    that any check refuses is `contraindicated`.
    """
    claims, binding = result.claims, result.claims.binding
    if not isinstance(binding, KeysetBinding):
        raise TypeError("the broker makes the tokens of guests that speak KBS")
    failed = tuple(check.id for check in result.failed)
    if result.code is not None and not failed:
        failed = (result.code,)
    runtime = {
        "nonce": binding.nonce.hex(),
        "keyset": binding.keyset.model_dump(mode="json"),
        "keyset-digest": str(binding.keyset.digest),
    }
    submods = {
        "cpu0": cpu_submod(claims, policy=result.policy_digest, failed=failed, runtime=runtime)
    }
    refused = bool(failed) or claims.simulated
    submods |= _gpu_submods(result, contraindicated=refused)
    return {
        "eat_profile": PROFILE,
        "eat_nonce": binding.nonce.hex(),
        "iat": int(now.timestamp()),
        "exp": int(result.expires_at.timestamp()),
        "iss": "tacit-verify",
        "ear.verifier-id": {"developer": "tacit", "build": "tacit-verify 1"},
        "submods": submods,
    }


def _gpu_submods(result: AttestationResult, *, contraindicated: bool) -> dict[str, Any]:
    """Return `gpu0`, `switch0` and so on; a device is no better than the guest it serves."""
    found: dict[str, Any] = {}
    for kind, word in ((Kind.GPU, "gpu"), (Kind.SWITCH, "switch")):
        devices = [device for device in result.claims.gpu if device.kind is kind]
        for number, device in enumerate(devices):
            found[f"{word}{number}"] = {
                "ear.status": "contraindicated" if contraindicated else "affirming",
                "ear.appraisal-policy-id": str(result.policy_digest),
                "ear.veraison.annotated-evidence": {
                    "nvidia": {
                        "architecture": device.architecture.value,
                        "serial": device.serial,
                        "driver": device.driver,
                        "vbios": device.vbios,
                    }
                },
                "tacit.simulated": result.claims.simulated,
            }
    return found


def _vector(failed: tuple[str, ...], *, simulated: bool) -> dict[str, int]:
    """Return AR4SI's vector with the values of Trustee's default policy."""
    hardware = simulated or any(check.startswith(_HARDWARE) for check in failed)
    executables = any(check.startswith(_EXECUTABLES) for check in failed)
    others = [check for check in failed if not check.startswith((*_HARDWARE, *_EXECUTABLES))]
    return {
        "instance-identity": 0,
        "configuration": 36 if others else 2,
        "executables": 33 if executables else 3,
        "file-system": 0,
        "hardware": 97 if hardware else 2,
        "runtime-opaque": 0,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
