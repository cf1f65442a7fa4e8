"""The admin API: keys, policies, approvals, releases and sessions of one broker, over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from attestation.broker.admin import Actor, Identify, Role
from attestation.broker.http import answered, in_thread, no_route, read
from attestation.broker.keyfile import ResourcePath, WrappedKey, parse_wrapped
from attestation.broker.protocol import MAX_ATTEST
from attestation.broker.release import unwrap
from attestation.broker.releaselog import verify_chain
from attestation.broker.rules import key_digest
from attestation.broker.service import KeyBroker
from attestation.codec import Document, parse_document, parse_json
from attestation.errors import ConfigError, Malformed, NotAuthentic, Refusal

Answer = dict[str, Any]
Work = Callable[[Actor, bytes, dict[str, str]], Answer]

_PAGE = 500
"""Entries of the release log in one answer."""


class Revocation(Document):
    """`POST /v1/admin/keys/revoke`."""

    resource: ResourcePath
    key: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    """The version to revoke, as `keys list` names it; so nobody revokes one they did not see."""


class Approval(Document):
    """`POST /v1/admin/approvals`."""

    request: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    hours: Annotated[int, Field(ge=1, le=24 * 31)]


def create_admin(broker: KeyBroker, identify: Identify) -> Starlette:
    """Return the ASGI application; it belongs on a listener of its own, over TLS."""
    acts = Acts(broker)
    table: tuple[tuple[str, str, str, Role, Work], ...] = (
        ("GET", "/v1/admin/keys", "keys.list", "viewer", acts.keys),
        ("POST", "/v1/admin/keys", "keys.import", "operator", acts.import_key),
        ("POST", "/v1/admin/keys/revoke", "keys.revoke", "operator", acts.revoke),
        ("GET", "/v1/admin/policies", "policies.list", "viewer", acts.policies),
        ("GET", "/v1/admin/approvals", "approvals.list", "viewer", acts.approvals),
        ("POST", "/v1/admin/approvals", "approvals.approve", "approver", acts.approve),
        ("GET", "/v1/admin/releases", "releases.list", "viewer", acts.releases),
        ("GET", "/v1/admin/sessions", "sessions.list", "viewer", acts.sessions),
    )
    routes = [
        Route(path, _endpoint(broker, identify, act=act, role=role, work=work), methods=[method])
        for method, path, act, role, work in table
    ]
    ready = Route("/readyz", _readiness(broker), methods=["GET"])
    return Starlette(routes=[*routes, ready], exception_handlers={404: no_route, 405: no_route})


def _endpoint(
    broker: KeyBroker, identify: Identify, *, act: str, role: Role, work: Work
) -> Callable[[Request], Awaitable[Response]]:
    """Identify, authorise, do, and record each in the release log before the answer.

    An act that changes something is recorded in the transaction that changes it; the others, and
    everything that is refused to a known person, right here. Strangers are counted.
    """

    def done(
        certificate: str | None, header: str | None, body: bytes, query: dict[str, str]
    ) -> Answer:
        try:
            actor = identify(certificate, header, broker.clock())
        except NotAuthentic as refusal:
            broker.reject("admin", refusal)
            raise
        try:
            actor.require(role)
            answer = work(actor, body, query)
        except ConfigError as error:  # the file that was sent is the sender's to mend
            broker.record_act(actor.name, act, code=error.code)
            raise Malformed(error.code, error.why) from None
        except Refusal as refusal:
            if refusal.code != "broker-store":
                broker.record_act(actor.name, act, code=refusal.code)
            raise
        if role == "viewer":
            broker.record_act(actor.name, act)
        return answer

    async def endpoint(request: Request) -> Response:
        async def answer() -> Response:
            body = await read(request, limit=MAX_ATTEST)
            tls = request.scope.get("extensions", {}).get("tls", {})
            certificate = next(iter(tls.get("client_cert_chain", ())), None)
            header = request.headers.get("authorization")
            query = dict(request.query_params)
            found = await in_thread(lambda: done(certificate, header, body, query))
            return JSONResponse(found)

        return await answered(answer)

    return endpoint


def _readiness(broker: KeyBroker) -> Callable[[Request], Awaitable[Response]]:
    def checked() -> None:
        broker.store.sessions()
        broker.kek.check()

    async def endpoint(_request: Request) -> Response:
        async def answer() -> Response:
            await in_thread(checked)
            return JSONResponse({"status": "ready"})

        return await answered(answer)

    return endpoint


class Acts:
    """What each act does; secrets and evidence are in no answer."""

    def __init__(self, broker: KeyBroker) -> None:
        self._broker = broker

    def keys(self, _actor: Actor, _body: bytes, _query: dict[str, str]) -> Answer:
        """List every resource with its newest wrapped key and its rules."""
        revoked = self._broker.ledger.revoked()
        return {"keys": [self._key(path, revoked) for path in sorted(self._broker.resources)]}

    def _key(self, path: str, revoked: frozenset[bytes]) -> Answer:
        resource = self._broker.find(path)
        wrapped, key = resource.wrapped, key_digest(resource.wrapped)
        model = wrapped if isinstance(wrapped, WrappedKey) else None
        return {
            "resource": path,
            "kind": wrapped.kind,
            "key": str(key),
            "manifest": None if model is None else model.manifest,
            "minimum_version": None if model is None else model.minimum_version,
            "kek": wrapped.kek,
            "created": wrapped.created.isoformat(),
            "revoked": key.value in revoked,
            "policy": str(resource.policy.digest),
            "rules": resource.rules.model_dump(mode="json"),
        }

    def import_key(self, actor: Actor, body: bytes, _query: dict[str, str]) -> Answer:
        """Take a wrapped key into service at once, at every broker of the store.

        It replaces the wrapped key of a resource that the broker's file lists; who may have it
        stays what the file says. It must open with the broker's KEK.
        """
        wrapped = parse_wrapped(body, name="document")
        old = self._broker.find(wrapped.resource)
        if wrapped.kind != old.wrapped.kind:
            raise Malformed("wrapped-key", f"{wrapped.resource} is a {old.wrapped.kind}")
        if wrapped.created <= old.wrapped.created:
            raise Malformed("wrapped-key-older", f"written at {wrapped.created.isoformat()}")
        unwrap(wrapped, self._broker.kek)
        entry = self._broker.act_entry(actor.name, "keys.import", wrapped=wrapped)
        self._broker.ledger.keep(wrapped, document=body, entry=entry)
        return self._key(wrapped.resource, self._broker.ledger.revoked())

    def revoke(self, actor: Actor, body: bytes, _query: dict[str, str]) -> Answer:
        """Refuse one version of a key from the next request on, for ever."""
        asked = parse_document(Revocation, body)
        wrapped = self._broker.find(asked.resource).wrapped
        if str(key_digest(wrapped)) != asked.key:
            raise Malformed("key-version", "another version of the key is in service")
        entry = self._broker.act_entry(actor.name, "keys.revoke", wrapped=wrapped)
        now = self._broker.clock()
        self._broker.ledger.revoke(wrapped, person=actor.name, at=now, entry=entry)
        return self._key(asked.resource, self._broker.ledger.revoked())

    def policies(self, _actor: Actor, _body: bytes, _query: dict[str, str]) -> Answer:
        """List the policies by name and digest; they are files, and no API changes them."""
        broker = self._broker
        used = {str(broker.policy.digest): (broker.policy, ["(every guest)"])}
        for path, resource in sorted(broker.resources.items()):
            digest = str(resource.policy.digest)
            used.setdefault(digest, (resource.policy, []))[1].append(path)
        found = [
            {"name": policy.name, "digest": digest, "profile": policy.profile, "for": paths}
            for digest, (policy, paths) in used.items()
        ]
        return {"policies": found}

    def approvals(self, _actor: Actor, _body: bytes, _query: dict[str, str]) -> Answer:
        """List the guests that wait for approval."""
        now = self._broker.clock()
        found = [
            {
                "request": item.id,
                "resource": item.resource,
                "guest": str(item.guest),
                "asked": item.asked.isoformat(),
                "approved_by": list(item.approved_by),
                "needed": self._needed(item.resource),
            }
            for item in self._broker.ledger.requests(now=now)
        ]
        return {"approvals": found}

    def _needed(self, path: str) -> int:
        resource = self._broker.resources.get(path)
        return 0 if resource is None else resource.rules.approvals

    def approve(self, actor: Actor, body: bytes, _query: dict[str, str]) -> Answer:
        """Approve one guest for one version of one key, for some hours."""
        asked = parse_document(Approval, body)
        until = self._broker.clock() + timedelta(hours=asked.hours)
        entry = self._broker.act_entry(actor.name, "approvals.approve", request=asked.request)
        pending = self._broker.ledger.approve(
            asked.request, person=actor.name, until=until, entry=entry
        )
        return {
            "request": pending.id,
            "resource": pending.resource,
            "approved_by": list(pending.approved_by),
            "needed": self._needed(pending.resource),
        }

    def releases(self, _actor: Actor, _body: bytes, query: dict[str, str]) -> Answer:
        """Return entries of the log from `since` on, and its head once all of it is verified."""
        text = query.get("since", "0")
        if not text.isdecimal() or len(text) > 18:
            raise Malformed("field-invalid", "since is the index of an entry")
        since = int(text)
        found: list[Answer] = []
        head = verify_chain(self._broker.store.releases())
        for item in self._broker.store.releases(since=since):
            if len(found) == _PAGE or item.index >= head.size:
                break
            found.append({"index": item.index, "hash": str(item.hash), **parse_json(item.entry)})
        return {"size": head.size, "head": str(head.hash), "entries": found}

    def sessions(self, _actor: Actor, _body: bytes, _query: dict[str, str]) -> Answer:
        """Count sessions by state, and what was refused to whom nobody knows."""
        rows = self._broker.store.tallies()
        counts = [dict(zip(("day", "act", "code", "count"), row, strict=True)) for row in rows]
        return {"sessions": self._broker.store.states(), "counts": counts}
