"""What has been released, approved, revoked and imported; asked before a key is touched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from attestation.broker import schema as tables
from attestation.broker.database import Database
from attestation.broker.keyfile import WrappedResource
from attestation.broker.releaselog import Entry, Head
from attestation.broker.rules import Ask, document_digest, key_digest
from attestation.broker.store import append_entry
from attestation.errors import ConfigError, NotAffirmed, Undecidable
from attestation.types import Digest

REQUEST_LIFE = timedelta(hours=24)
"""How long a request for approval is kept after a guest asked last."""
MAX_REQUESTS = 1024
"""Requests kept at once; only guests that a policy affirms can make one."""
_USE_HOURS = 31 * 24


@dataclass(frozen=True, slots=True)
class Pending:
    """A request for approval, and who approved it so far."""

    id: str
    resource: str
    guest: Digest
    asked: datetime
    approved_by: tuple[str, ...]


class Ledger:
    """The decisions a release rests on. Every method is one transaction with its log entry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(self, ask: Ask, *, now: datetime, entry: Entry) -> None:
        """Return if the key may be released now, or raise.

        `NotAffirmed` `key-revoked` or `release-limit`; `Undecidable` `approval-pending`, once the
        request is on record: `entry` goes into the log when it is new.
        """
        with self._database.transaction() as db:
            _refuse(db, ask, now=now)
            missing = _missing(db, ask, now=now)
            if missing:
                _record(db, ask, now=now, entry=entry)
        if missing:
            raise Undecidable("approval-pending", f"request {ask.id[:16]} lacks {missing}")

    def release(self, ask: Ask, *, now: datetime, entry: Entry) -> Head:
        """Record one release, if it is still allowed; two brokers cannot both take the last."""
        with self._database.transaction() as db:
            _refuse(db, ask, now=now)
            if _missing(db, ask, now=now):
                raise Undecidable("approval-pending", f"request {ask.id[:16]} lost its approval")
            head = append_entry(db, entry)
            old = tables.uses.c.at <= (now - timedelta(hours=_USE_HOURS)).timestamp()
            db.execute(sa.delete(tables.uses).where(old))
            db.execute(
                sa.insert(tables.uses).values(
                    place=head.size - 1,
                    resource=ask.resource,
                    guest=ask.guest.value,
                    at=now.timestamp(),
                )
            )
            return head

    def requests(self, *, now: datetime) -> tuple[Pending, ...]:
        """Return the requests for approval, oldest first."""
        with self._database.transaction(writes=False) as db:
            table = tables.requests
            rows = db.execute(sa.select(table).order_by(table.c.asked)).all()
            return tuple(
                Pending(
                    row.id,
                    row.resource,
                    Digest("sha256", row.guest),
                    datetime.fromtimestamp(row.asked, now.tzinfo),
                    _approvers(db, row.id, now=now),
                )
                for row in rows
            )

    def approve(self, request: str, *, person: str, until: datetime, entry: Entry) -> Pending:
        """Add one person's approval, or raise `NotAffirmed` `request-unknown`; the same person
        again only moves the end of it.
        """
        with self._database.transaction() as db:
            table = tables.requests
            row = db.execute(sa.select(table).where(table.c.id == request)).one_or_none()
            if row is None:
                raise NotAffirmed("request-unknown", "no guest asked for this")
            _put(
                db,
                tables.approvals,
                {"request": request, "person": person},
                until=until.timestamp(),
            )
            append_entry(db, entry)
            asked = datetime.fromtimestamp(row.asked, until.tzinfo)
            approvers = _approvers(db, request, now=asked)
            return Pending(row.id, row.resource, Digest("sha256", row.guest), asked, approvers)

    def revoke(self, wrapped: WrappedResource, *, person: str, at: datetime, entry: Entry) -> None:
        """Refuse this version of a key from now on, for ever."""
        key = key_digest(wrapped)
        with self._database.transaction() as db:
            values = {"resource": wrapped.resource, "at": at.timestamp(), "person": person}
            _put(db, tables.revoked, {"key": key.value}, **values)
            append_entry(db, entry)

    def revoked(self) -> frozenset[bytes]:
        """Return the digests of all revoked keys."""
        with self._database.transaction(writes=False) as db:
            return frozenset(db.scalars(sa.select(tables.revoked.c.key)))

    def keep(self, wrapped: WrappedResource, *, document: bytes, entry: Entry) -> None:
        """Keep an imported wrapped key; refuse one that is older than what was ever served."""
        path, version = wrapped.resource, getattr(wrapped, "minimum_version", 1)
        with self._database.transaction() as db:
            row = db.execute(
                sa.select(tables.resources).where(tables.resources.c.path == path)
            ).one_or_none()
            if row is not None and row.minimum_version > version:
                raise ConfigError(
                    "wrapped-key-rollback", f"{path}: {version} after {row.minimum_version}"
                )
            _put(db, tables.imports, {"path": path}, document=document)
            digest = document_digest(wrapped).value
            _put(db, tables.resources, {"path": path}, minimum_version=version, document=digest)
            append_entry(db, entry)

    def imported(self, path: str) -> bytes | None:
        """Return the wrapped key that was imported last under `path`, if any was."""
        with self._database.transaction(writes=False) as db:
            found = sa.select(tables.imports.c.document).where(tables.imports.c.path == path)
            return db.scalar(found)


def _refuse(db: sa.Connection, ask: Ask, *, now: datetime) -> None:
    if db.scalar(sa.select(tables.revoked.c.at).where(tables.revoked.c.key == ask.key.value)):
        raise NotAffirmed("key-revoked", f"this version of {ask.resource} was revoked")
    limit = ask.rules.releases
    since = (now - timedelta(hours=limit.hours)).timestamp()
    count = db.scalar(
        sa.select(sa.func.count())
        .select_from(tables.uses)
        .where(
            tables.uses.c.guest == ask.guest.value,
            tables.uses.c.resource == ask.resource,
            tables.uses.c.at > since,
        )
    )
    if (count or 0) >= limit.most:
        raise NotAffirmed("release-limit", f"{count} releases of {ask.resource} to this guest")


def _missing(db: sa.Connection, ask: Ask, *, now: datetime) -> int:
    if not ask.rules.approvals:
        return 0
    return max(0, ask.rules.approvals - len(_approvers(db, ask.id, now=now)))


def _approvers(db: sa.Connection, request: str, *, now: datetime) -> tuple[str, ...]:
    table = tables.approvals
    valid = (table.c.request == request, table.c.until > now.timestamp())
    return tuple(db.scalars(sa.select(table.c.person).where(*valid).order_by(table.c.person)))


def _record(db: sa.Connection, ask: Ask, *, now: datetime, entry: Entry) -> None:
    table, approvals = tables.requests, tables.approvals
    db.execute(sa.delete(table).where(table.c.asked <= (now - REQUEST_LIFE).timestamp()))
    db.execute(sa.delete(approvals).where(approvals.c.until <= now.timestamp()))
    asked = sa.update(table).where(table.c.id == ask.id).values(asked=now.timestamp())
    if db.execute(asked).rowcount:
        return
    if (db.scalar(sa.select(sa.func.count()).select_from(table)) or 0) >= MAX_REQUESTS:
        raise Undecidable("broker-busy", f"{MAX_REQUESTS} requests wait for approval")
    values = {"resource": ask.resource, "guest": ask.guest.value, "asked": now.timestamp()}
    db.execute(sa.insert(table).values(id=ask.id, **values))
    append_entry(db, entry)


def _put(db: sa.Connection, table: sa.Table, key: dict[str, object], **values: object) -> None:
    same = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if not db.execute(sa.update(table).where(same).values(**values)).rowcount:
        db.execute(sa.insert(table).values(**key, **values))
