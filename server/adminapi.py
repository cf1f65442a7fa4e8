"""The admin API: what an operator with the role `admin` sees and changes on a running guest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeVar

from pydantic import Field
from starlette.types import Receive, Scope, Send

from attestation.codec import Document, parse_document
from attestation.errors import ConfigError, Malformed
from server import exchange
from server.access import Tenant
from server.apikeys import FreshKey, KeyFile, KeyId, KeyName, KeyRing, public
from server.errors import BadRequest, NotFound, Rejected, Unavailable
from server.keyfile import fresh_key
from server.onion import respond
from server.ready import Ready
from server.serving import read_whole

D = TypeVar("D", bound=Document)
FreshChange = Callable[[KeyRing, FreshKey], KeyRing]


class NewKey(Document):
    """`POST /v1/admin/keys`."""

    tenant: Tenant
    name: KeyName
    days: Annotated[int, Field(ge=1, le=1100)]


class Rotation(Document):
    """`POST /v1/admin/keys/rotate`: a key like another, which ends after `hours`."""

    id: KeyId
    hours: Annotated[int, Field(ge=0, le=24 * 90)]


class Revocation(Document):
    """`POST /v1/admin/keys/revoke`."""

    id: KeyId


@dataclass(frozen=True, slots=True)
class Administration:
    """Endpoints of the operator listener; the table in `server.app` says who reaches them.

    A new key is in one answer and nowhere else.
    """

    ready: Ready

    async def status(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what this guest serves and how busy it is."""
        del scope, receive
        admission = self.ready.admission
        found = {
            "models": sorted(self.ready.models),
            "healthy": self.ready.healthy(),
            "draining": admission.draining,
            "in_flight": admission.in_flight,
            "limit": admission.limit,
            "config": self.ready.keyset.config,
        }
        await _answer(send, found)

    async def keys(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List the keys of the file as it is now."""
        del scope, receive
        try:
            file = await asyncio.to_thread(self.ready.keys.listed)
        except ConfigError as error:
            raise _refusal(error) from None
        listed = [public(entry) for entry in file.keys]
        await _answer(send, {"serial": file.serial, "keys": listed})

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make a key; the answer shows it, once."""
        asked = await _read(NewKey, receive)
        seen = exchange.of(scope)
        seen.tenant = asked.tenant
        self.ready.quotas.allowance(asked.tenant)  # a key of nobody's tenant opens nothing
        life = timedelta(days=asked.days)

        def change(ring: KeyRing, fresh: FreshKey) -> KeyRing:
            now = self.ready.clock()
            return ring.create(fresh, tenant=asked.tenant, name=asked.name, now=now, life=life)

        file, fresh = await self._with_fresh(change)
        seen.key_id = fresh.id
        await _show(send, file, fresh)

    async def rotate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make a key like another, which ends soon; the answer shows the new one, once."""
        asked = await _read(Rotation, receive)
        seen = exchange.of(scope)
        seen.key_id = asked.id
        overlap = timedelta(hours=asked.hours)

        def change(ring: KeyRing, fresh: FreshKey) -> KeyRing:
            return ring.rotate(asked.id, fresh, now=self.ready.clock(), overlap=overlap)

        file, fresh = await self._with_fresh(change)
        seen.tenant = file.entry(fresh.id).tenant
        await _show(send, file, fresh)

    async def revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Remove a key; no request that begins after the answer gets in with it."""
        asked = await _read(Revocation, receive)
        exchange.of(scope).key_id = asked.id
        try:
            file = await asyncio.to_thread(
                self.ready.keys.change, lambda ring: ring.revoke(asked.id)
            )
        except ConfigError as error:
            raise _refusal(error) from None
        await _answer(send, {"revoked": asked.id, "serial": file.serial, "keys": len(file.keys)})

    async def _with_fresh(self, change: FreshChange) -> tuple[KeyFile, FreshKey]:
        made: list[FreshKey] = []

        def changed(ring: KeyRing) -> KeyRing:
            made.append(fresh_key(ring.file))
            return change(ring, made[-1])

        try:
            file = await asyncio.to_thread(self.ready.keys.change, changed)
        except ConfigError as error:
            raise _refusal(error) from None
        return file, made[-1]


async def _read(kind: type[D], receive: Receive) -> D:
    sent = await read_whole(receive)
    try:
        return parse_document(kind, sent.reveal())
    except Malformed:
        raise BadRequest("admin-request") from None


async def _answer(send: Send, value: Mapping[str, object]) -> None:
    await respond(send, 200, json.dumps(value).encode())


async def _show(send: Send, file: KeyFile, fresh: FreshKey) -> None:
    shown = {**public(file.entry(fresh.id)), "serial": file.serial, "key": fresh.text().reveal()}
    await _answer(send, shown)


def _refusal(error: ConfigError) -> Rejected:
    if error.code == "api-key-unknown":
        return NotFound("admin-key-unknown")
    if error.code == "api-key-invalid":
        return BadRequest("admin-request")
    if error.code == "api-keys-unwritable":
        return Unavailable("admin-keys-unwritable", retry_after=60)
    return Unavailable("keys-unavailable", retry_after=5)
