"""The key broker's decisions: request, challenge, attestation, response, resource (RCAR)."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestation.appraise import Affirmed, AttestationResult
from attestation.broker.ear import TokenKey, ear_claims
from attestation.broker.jwe import new_ephemeral, seal_jwe
from attestation.broker.kek import Kek
from attestation.broker.keyfile import WrappedKey
from attestation.broker.protocol import Attestation, Request, resource_path
from attestation.broker.release import Resource, recipient, release
from attestation.broker.releaselog import Entry
from attestation.broker.store import Attested, Challenged, Store
from attestation.codec import b64
from attestation.confidential import Confidential
from attestation.endorse import Endorser
from attestation.errors import NotAffirmed, NotAuthentic, Refusal
from attestation.policy import Policy
from attestation.types import Digest
from attestation.verifier import Verifier

Clock = Callable[[], datetime]
Entropy = Callable[[int], bytes]
"""Returns that many random bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what guests, and everybody else, can make the broker keep."""

    sessions: int
    session_time: timedelta


@dataclass(frozen=True, slots=True)
class KeyBroker:
    """One broker. Every answer is recorded in the store before it is returned.

    What somebody unauthenticated caused is counted (one row a day and code); what authentic
    evidence caused, and every release, is an entry of the release log. Where that fails, the
    method raises `Undecidable` and nothing was released.
    """

    store: Store
    policy: Policy
    """The default policy: who gets a session and a token at all."""
    resources: Mapping[str, Resource]
    """What may be released; anything else is unknown."""
    endorser: Endorser
    kek: Kek
    token_key: TokenKey
    limits: Limits
    clock: Clock
    entropy: Entropy

    def challenge(self, body: bytes) -> tuple[Challenged, bytes]:
        """Answer `POST /kbs/v0/auth`: a new session, and the challenge as JSON."""
        with self._counted("auth"):
            Request.parse(body)
            now = self.clock()
            nonce = b64(self.entropy(32))
            expires = now + self.limits.session_time
            session = Challenged(self.entropy(32).hex(), nonce, expires)
            self.store.challenge(session, now=now, limit=self.limits.sessions)
        return session, json.dumps({"nonce": nonce, "extra-params": ""}).encode()

    def attest(self, session_id: str | None, body: bytes) -> bytes:
        """Answer `POST /kbs/v0/attest`: the token of a guest the default policy affirms.

        The session's nonce is spent by the attempt, whatever becomes of it.
        """
        with self._counted("attest"):
            attestation = Attestation.parse(body)
            session = self.store.spend(_known(session_id), now=self.clock())
            result = self._verify(attestation, self.policy, nonce=session.nonce)
        with self._logged(session.id, result):
            affirmed = result.affirmed(self.clock())
        now = self.clock()
        token = self.token_key.sign(
            ear_claims(affirmed, attestation, policy=self.policy.digest, now=now)
        )
        entry = self._entry("attested", session=session.id, result=result)
        self.store.attest(session.id, attestation=body, entry=entry)
        return json.dumps({"token": token}).encode()

    def resource(self, session_id: str | None, path: str) -> bytes:
        """Answer `GET /kbs/v0/resource/…`: the resource, sealed to the guest's key.

        The evidence is verified again under the resource's own policy, with today's collateral:
        a platform revoked since it attested gets nothing more.
        """
        with self._counted("resource"):
            name = resource_path(path)
            session = self.store.attested(_known(session_id), now=self.clock())
            resource = self.resources.get(name)
            if resource is None:
                raise NotAffirmed("resource-unknown", "there is no such resource")
            attestation = Attestation.parse(session.attestation)
            result = self._verify(attestation, resource.policy, nonce=session.nonce)
        with self._logged(session.id, result, path=name):
            affirmed = result.affirmed(self.clock())
            sealed = self._seal(resource, affirmed)
        self._record_release(session, result, resource)
        return sealed

    def reject(self, act: str, refusal: Refusal) -> None:
        """Count a refusal the HTTP layer made before it asked, such as a body over the limit."""
        self.store.tally(act=act, code=refusal.code, now=self.clock())

    def _verify(self, attestation: Attestation, policy: Policy, *, nonce: str) -> AttestationResult:
        evidence = attestation.evidence()
        result = Verifier(policy).verify(
            evidence,
            self.endorser.endorsements(evidence.quote),
            expected_nonce=nonce,
            now=self.clock(),
        )
        if attestation.init_data is not None:
            expected = attestation.init_data.mr_config_id()
            if not hmac.compare_digest(expected, result.claims.tdx.report.mr_config_id):
                raise NotAuthentic("init-data-mismatch", "MRCONFIGID is not init-data's digest")
        return result

    def _seal(self, resource: Resource, affirmed: Affirmed) -> bytes:
        to = recipient(affirmed)
        payload = release(resource, affirmed, kek=self.kek, now=self.clock())
        return seal_jwe(
            payload,
            to,
            ephemeral=new_ephemeral(to),
            cek=Confidential(self.entropy(32)),
            iv=self.entropy(12),
        )

    def _record_release(
        self, session: Attested, result: AttestationResult, resource: Resource
    ) -> None:
        entry = self._entry(
            "released", session=session.id, result=result, path=resource.wrapped.resource
        )
        if isinstance(resource.wrapped, WrappedKey):
            wrapped = resource.wrapped
            bound = {"manifest": wrapped.manifest, "minimum_version": wrapped.minimum_version}
            entry = entry.model_copy(update=bound)
        self.store.append(entry)

    def _entry(
        self,
        event: str,
        *,
        session: str,
        result: AttestationResult,
        path: str | None = None,
        code: str = "ok",
    ) -> Entry:
        facts = {
            "at": self.clock().isoformat(timespec="microseconds"),
            "event": event,
            "code": code,
            "session": str(Digest.sha256(session.encode())),
            "resource": path,
            "policy": str(result.policy_digest),
            "evidence": str(evidence_digest(result)),
            "manifest": None,
            "minimum_version": None,
            "simulated": result.claims.simulated,
        }
        return Entry.model_validate(facts)

    @contextmanager
    def _counted(self, act: str) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            if refusal.code == "broker-store":
                raise  # a store that fails cannot count its failures either
            self.store.tally(act=act, code=refusal.code, now=self.clock())
            raise

    @contextmanager
    def _logged(
        self, session: str, result: AttestationResult, *, path: str | None = None
    ) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            entry = self._entry(
                "refused", session=session, result=result, path=path, code=refusal.code
            )
            self.store.append(entry)
            raise


def evidence_digest(result: AttestationResult) -> Digest:
    """Return a name for the evidence: the digest of REPORT_DATA, which commits to all of it."""
    return Digest.sha256(result.claims.tdx.report.report_data)


def _known(session_id: str | None) -> str:
    if session_id is None:
        raise NotAuthentic("session-unknown", "the request names no session")
    return session_id
