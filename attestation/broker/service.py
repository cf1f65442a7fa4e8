"""The key broker's decisions: request, challenge, attestation, response, resource (RCAR)."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from attestation.appraise import Affirmed, AttestationResult
from attestation.broker.ear import TokenKey, ear_claims
from attestation.broker.jwe import new_ephemeral, seal_jwe
from attestation.broker.kek import Kek
from attestation.broker.keyfile import WrappedKey, WrappedResource, parse_wrapped
from attestation.broker.ledger import Ledger
from attestation.broker.native import (
    MAX_CHALLENGE,
    ChallengeRequest,
    NativeChallenge,
    ReleaseAnswer,
    ReleaseRequest,
    Statement,
    recipient_digest,
    seal_to,
)
from attestation.broker.protocol import Attestation, Request, resource_path
from attestation.broker.release import Resource, recipient, release
from attestation.broker.releaselog import Entry, Head
from attestation.broker.rules import Ask, ask, key_digest
from attestation.broker.store import Challenged, Store
from attestation.codec import b64, canonical_json, parse_document
from attestation.confidential import Confidential
from attestation.endorse import Endorser
from attestation.errors import NotAffirmed, NotAuthentic, Refusal, Undecidable
from attestation.evidence import Evidence
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
    per_minute: int
    """Requests of one source that has no session yet, each minute."""
    burst: int
    """How many of them may come at once."""


@dataclass(frozen=True, slots=True)
class KeyBroker:
    """One broker. Every answer is recorded in the store before it is returned.

    What somebody unauthenticated caused is counted (one row a day and code); what authentic
    evidence caused, and every release, is an entry of the release log. Where that fails, the
    method raises `Undecidable` and nothing was released.
    """

    store: Store
    ledger: Ledger
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
        entry = self._entry("attested", self._facts(session.id, result))
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
            resource = self.find(name)
            attestation = Attestation.parse(session.attestation)
            result = self._verify(attestation, resource.policy, nonce=session.nonce)
        with self._logged(session.id, result, path=name):
            affirmed = result.affirmed(self.clock())
            to = recipient(affirmed)
            facts = self._facts(session.id, result, resource)
            facts["recipient"] = str(Digest.sha256(canonical_json(to.model_dump())))
            asked, payload = self._opened(resource, affirmed, facts)
            sealed = seal_jwe(
                payload,
                to,
                ephemeral=new_ephemeral(to),
                cek=Confidential(self.entropy(32)),
                iv=self.entropy(12),
            )
            self._released(asked, facts)
        return sealed

    def native_challenge(self, body: bytes) -> bytes:
        """Answer `POST /v1/keys/challenge`: a nonce for one release."""
        with self._counted("native-challenge"):
            parse_document(ChallengeRequest, body, limit=MAX_CHALLENGE)
            now = self.clock()
            nonce, expires = b64(self.entropy(32)), now + self.limits.session_time
            session = Challenged(_native_session(nonce), nonce, expires)
            self.store.challenge(session, now=now, limit=self.limits.sessions)
        answer = NativeChallenge(version=1, nonce=nonce, expires=expires)
        return answer.model_dump_json().encode()

    def native_release(self, body: bytes) -> bytes:
        """Answer `POST /v1/keys/release`: one resource, sealed, with a signed statement.

        The nonce is spent by the attempt; there is no session that could be stolen.
        """
        with self._counted("native-release"):
            request = ReleaseRequest.parse(body)
            evidence = request.opaque()
            session = self.store.spend(_native_session(request.nonce), now=self.clock())
            resource = self.find(request.resource)
            result = self._appraised(evidence, resource.policy, nonce=session.nonce)
        with self._logged(session.id, result, path=request.resource):
            affirmed = result.affirmed(self.clock())
            facts = self._facts(session.id, result, resource)
            facts["recipient"] = str(recipient_digest(request.recipient))
            asked, payload = self._opened(resource, affirmed, facts)
            sealed = seal_to(request, payload)
            head = self._released(asked, facts)
        told = {name: facts.get(name) for name in _STATED}
        statement = Statement.model_validate(
            {
                "iss": "tacit-broker",
                "iat": int(self.clock().timestamp()),
                "sealed": str(Digest.sha256(sealed)),
                "log_index": head.size - 1,
                "log_head": str(head.hash),
                **told,
            }
        )
        token = self.token_key.sign(statement.model_dump(mode="json"))
        return (
            ReleaseAnswer(version=1, sealed=b64(sealed), statement=token).model_dump_json().encode()
        )

    def find(self, path: str) -> Resource:
        """Return a resource with its newest wrapped key: of the file, or imported since.

        An import replaces the wrapped key alone; policy and rules are always those of the file.
        """
        resource = self.resources.get(path)
        if resource is None:
            raise NotAffirmed("resource-unknown", "there is no such resource")
        document = self.ledger.imported(path)
        if document is None:
            return resource
        imported = parse_wrapped(document, name=path)
        return max(resource, replace(resource, wrapped=imported), key=_age)

    def act_entry(
        self,
        actor: str,
        act: str,
        *,
        wrapped: WrappedResource | None = None,
        request: str | None = None,
        code: str = "ok",
    ) -> Entry:
        """Return the log entry of what a person did on the admin listener."""
        facts: dict[str, Any] = {"actor": actor, "act": act, "request": request}
        if wrapped is not None:
            facts |= {"resource": wrapped.resource, "key": str(key_digest(wrapped))}
        if isinstance(wrapped, WrappedKey):
            facts |= {"manifest": wrapped.manifest, "minimum_version": wrapped.minimum_version}
        return self._entry("admin", facts, code=code)

    def record_act(self, actor: str, act: str, *, code: str = "ok") -> None:
        """Record an act that changed nothing, or was refused."""
        self.store.append(self.act_entry(actor, act, code=code))

    def close(self) -> None:
        """Close the store and the KEK; a broker answers nothing after that."""
        self.store.close()
        self.kek.close()

    def reject(self, act: str, refusal: Refusal) -> None:
        """Count a refusal the HTTP layer made before it asked, such as a body over the limit."""
        self.store.tally(act=act, code=refusal.code, now=self.clock())

    def _verify(self, attestation: Attestation, policy: Policy, *, nonce: str) -> AttestationResult:
        result = self._appraised(attestation.evidence(), policy, nonce=nonce)
        if attestation.init_data is not None:
            expected = attestation.init_data.mr_config_id()
            if not hmac.compare_digest(expected, result.claims.tdx.report.mr_config_id):
                raise NotAuthentic("init-data-mismatch", "MRCONFIGID is not init-data's digest")
        return result

    def _appraised(self, evidence: Evidence, policy: Policy, *, nonce: str) -> AttestationResult:
        endorsements = self.endorser.endorsements(evidence.quote)
        return Verifier(policy).verify(
            evidence, endorsements, expected_nonce=nonce, now=self.clock()
        )

    def _opened(
        self, resource: Resource, affirmed: Affirmed, facts: dict[str, Any]
    ) -> tuple[Ask, Confidential[bytes]]:
        """Ask the rules and the ledger, then open the key; add to `facts` what was decided on."""
        asked = ask(resource.wrapped, affirmed, rules=resource.rules, now=self.clock())
        facts |= {"guest": str(asked.guest), "key": str(asked.key)}
        told = facts | {"request": asked.id}
        now = self.clock()
        self.ledger.admit(asked, now=now, entry=self._entry("asked", told))
        return asked, release(resource, affirmed, kek=self.kek, now=now)

    def _released(self, asked: Ask, facts: dict[str, Any]) -> Head:
        entry = self._entry("released", facts)
        return self.ledger.release(asked, now=self.clock(), entry=entry)

    def _facts(
        self, session: str, result: AttestationResult, resource: Resource | None = None
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "session": str(Digest.sha256(session.encode())),
            "policy": str(result.policy_digest),
            "evidence": str(evidence_digest(result)),
            "simulated": result.claims.simulated,
        }
        if resource is not None:
            wrapped = resource.wrapped
            facts |= {
                "resource": wrapped.resource,
                "tenant": resource.rules.tenant,
                "rules": str(resource.rules.digest),
            }
            if isinstance(wrapped, WrappedKey):
                facts["manifest"] = wrapped.manifest
                facts["minimum_version"] = wrapped.minimum_version
        return facts

    def _entry(self, event: str, facts: dict[str, Any], *, code: str = "ok") -> Entry:
        at = self.clock().isoformat(timespec="microseconds")
        return Entry.model_validate({**_UNSAID, **facts, "at": at, "event": event, "code": code})

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
        """Log a refusal of authentic evidence; what could not be decided is counted, for the
        guest asks again and again.
        """
        try:
            yield
        except Undecidable as refusal:
            if refusal.code != "broker-store":
                self.store.tally(act="resource", code=refusal.code, now=self.clock())
            raise
        except Refusal as refusal:
            facts = self._facts(session, result) | {"resource": path}
            self.store.append(self._entry("refused", facts, code=refusal.code))
            raise


def evidence_digest(result: AttestationResult) -> Digest:
    """Return a name for the evidence: the digest of REPORT_DATA, which commits to all of it."""
    return Digest.sha256(result.claims.tdx.report.report_data)


_UNSAID: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(
        ("session", "resource", "policy", "evidence", "manifest", "minimum_version", "simulated")
    )
)
_STATED = (
    "resource",
    "key",
    "manifest",
    "minimum_version",
    "tenant",
    "policy",
    "rules",
    "evidence",
    "guest",
    "recipient",
    "simulated",
)
"""What the statement repeats of the log entry."""


def _age(resource: Resource) -> tuple[int, datetime]:
    return getattr(resource.wrapped, "minimum_version", 1), resource.wrapped.created


def _native_session(nonce: str) -> str:
    return Digest.sha256(b"tacit/v1/native-session" + nonce.encode()).value.hex()


def _known(session_id: str | None) -> str:
    if session_id is None:
        raise NotAuthentic("session-unknown", "the request names no session")
    return session_id
