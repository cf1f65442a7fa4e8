"""Release a resource: an affirmed guest and the resource's rule in, the bytes to seal out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from attestation.appraise import Affirmed
from attestation.binding import KbsBinding
from attestation.broker.kek import Kek
from attestation.broker.keyfile import WrappedKey, WrappedResource
from attestation.broker.protocol import EcKey, RsaKey, TeePubKey
from attestation.broker.rules import KeyRules
from attestation.checks import RUNTIME_DOMAIN
from attestation.codec import b64, canonical_json, unb64
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.policy import Policy
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest

_TEE_PUBKEY: TypeAdapter[EcKey | RsaKey] = TypeAdapter(TeePubKey)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something the broker may release, and the policy a guest must meet for it."""

    wrapped: WrappedResource
    policy: Policy
    """Its own, not the broker's default: the verifier runs again with it at every release."""
    rules: KeyRules


def release(
    resource: Resource, affirmed: Affirmed, *, kek: Kek, now: datetime
) -> Confidential[bytes]:
    """Return the payload for a guest that `resource.policy` affirmed.

    Only the verifier makes an `Affirmed`; that is what keeps this function from any other caller.
    A model's key goes only to a guest that measured the very manifest the key was wrapped for.
    """
    if now >= affirmed.expires_at:
        raise NotAffirmed("affirmation-expired", "the guest must be verified again")
    wrapped = resource.wrapped
    if isinstance(wrapped, WrappedKey):
        _measured(Digest.parse(wrapped.manifest), affirmed.claims.runtime)
    secret = unwrap(wrapped, kek)
    if not isinstance(wrapped, WrappedKey):
        return secret
    payload = {
        "dek": b64(secret.reveal()),
        "manifest": wrapped.manifest,
        "minimum_version": wrapped.minimum_version,
    }
    return Confidential(canonical_json(payload))


def unwrap(wrapped: WrappedResource, kek: Kek) -> Confidential[bytes]:
    """Open a wrapped resource; a failure is the broker's, so nobody else's evidence is blamed."""
    if wrapped.kek != kek.id:
        raise Undecidable("kek-mismatch", f"{wrapped.resource} was wrapped by {wrapped.kek}")
    try:
        return kek.unwrap(unb64(wrapped.wrapped, what="wrapped"), aad=wrapped.aad)
    except (Malformed, NotAuthentic):
        raise Undecidable("kek-mismatch", f"{wrapped.resource} does not open") from None


def recipient(affirmed: Affirmed) -> EcKey | RsaKey:
    """Return the key of this boot that the quote of an affirmed guest binds."""
    binding = affirmed.claims.binding
    if not isinstance(binding, KbsBinding):
        raise Malformed("tee-pubkey", "the evidence binds no key a resource could be sealed to")
    try:
        return _TEE_PUBKEY.validate_python(dict(binding.tee_pubkey))
    except ValidationError:
        raise Malformed("tee-pubkey", "the key the evidence binds is not one we seal to") from None


def _measured(manifest: Digest, events: tuple[RuntimeEvent, ...]) -> None:
    for event in events:
        if (event.domain, event.operation) == (RUNTIME_DOMAIN, "model"):
            _, _, digest = event.content.rpartition("=")
            if Digest.parse(digest).matches(manifest):
                return
    raise NotAffirmed("manifest-not-measured", "the guest did not measure the key's manifest")
