"""Sessions, counts and the release log in a database; what cannot be recorded does not happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from attestation.broker import schema as tables
from attestation.broker.database import Database
from attestation.broker.releaselog import EMPTY, Entry, Head, Link, link
from attestation.errors import ConfigError, NotAuthentic, Undecidable
from attestation.types import Digest

MAX_RESOURCE_REQUESTS = 64
"""Resource requests of one session; bounds what one attestation can add to the log."""


@dataclass(frozen=True, slots=True)
class Challenged:
    """A session whose nonce is out; it is spent by one attestation, good or bad."""

    id: str
    nonce: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Attested:
    """A session whose evidence was affirmed; the evidence is verified again at every release."""

    id: str
    nonce: str
    attestation: bytes


class Store:
    """One database. Every method is one transaction, durable when it returns.

    A failing database raises `Undecidable` (`broker-store`): the caller then releases nothing.
    Two brokers may share a PostgreSQL store: whatever one of them writes is decided alone, so a
    nonce is spent once and the chain has one end, whoever asked whom.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str | sa.URL) -> Store:
        """Open a store, making or migrating its tables, or raise `ConfigError`."""
        return cls(Database.migrated(url))

    @classmethod
    def existing(cls, url: str | sa.URL) -> Store:
        """Open a store to read it; one that does not exist is not made and is no empty log."""
        return cls(Database.existing(url))

    @property
    def database(self) -> Database:
        """The database, for what else is decided in it."""
        return self._database

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def challenge(self, session: Challenged, *, now: datetime, limit: int) -> None:
        """Keep a new session; purge expired ones, and evict the oldest challenge over `limit`.

        A flood of requests for challenges can so push out challenges, but never attested sessions,
        and never more than `limit` rows exist.
        """
        with self._database.transaction() as db:
            db.execute(
                sa.delete(tables.sessions).where(tables.sessions.c.expires <= now.timestamp())
            )
            count = db.scalar(sa.select(sa.func.count()).select_from(tables.sessions)) or 0
            if count >= limit:
                oldest = (
                    sa.select(tables.sessions.c.id)
                    .where(tables.sessions.c.state != "attested")
                    .order_by(tables.sessions.c.expires)
                    .limit(1)
                )
                row = db.scalar(oldest)
                if row is None:
                    raise Undecidable("broker-busy", f"{count} guests hold sessions")
                db.execute(sa.delete(tables.sessions).where(tables.sessions.c.id == row))
            db.execute(
                sa.insert(tables.sessions).values(
                    id=session.id,
                    state="challenged",
                    nonce=session.nonce,
                    expires=session.expires.timestamp(),
                    requests=0,
                )
            )
            _count(db, act="auth", code="ok", now=now)

    def spend(self, session_id: str, *, now: datetime) -> Challenged:
        """Take the challenge of a session for the one attestation it allows."""
        with self._database.transaction() as db:
            row = _live(db, session_id, now=now)
            if row.state != "challenged":
                raise NotAuthentic("session-spent", "this session has been attested with already")
            db.execute(_of(session_id).values(state="spent"))
            return Challenged(session_id, row.nonce, datetime.fromtimestamp(row.expires, UTC))

    def attest(self, session_id: str, *, attestation: bytes, entry: Entry) -> None:
        """Record that the guest of a spent session was affirmed, and by which evidence."""
        with self._database.transaction() as db:
            attested = _of(session_id).where(tables.sessions.c.state == "spent")
            if db.execute(attested.values(state="attested", attestation=attestation)).rowcount != 1:
                raise NotAuthentic("session-unknown", "the session ended while it was attested")
            append_entry(db, entry)

    def attested(self, session_id: str, *, now: datetime) -> Attested:
        """Return a live attested session, and count the request it makes."""
        with self._database.transaction() as db:
            row = _live(db, session_id, now=now)
            if row.state != "attested":
                raise NotAuthentic("session-unattested", "this session has not been attested")
            if row.requests >= MAX_RESOURCE_REQUESTS:
                raise NotAuthentic("session-exhausted", f"{row.requests} requests in one session")
            db.execute(_of(session_id).values(requests=row.requests + 1))
            return Attested(session_id, row.nonce, row.attestation)

    def append(self, entry: Entry) -> Head:
        """Append one entry to the release log; it is on disk when this returns."""
        with self._database.transaction() as db:
            return append_entry(db, entry)

    def tally(self, *, act: str, code: str, now: datetime) -> None:
        """Count a refusal of somebody unauthenticated: one row a day and code, however many."""
        with self._database.transaction() as db:
            _count(db, act=act, code=code, now=now)

    def tallies(self) -> tuple[tuple[str, str, str, int], ...]:
        """Return (day, act, code, count), oldest first."""
        with self._database.transaction(writes=False) as db:
            rows = db.execute(
                sa.select(tables.tallies).order_by(*tables.tallies.primary_key.columns)
            ).all()
            return tuple((row.day, row.act, row.code, row.total) for row in rows)

    def sessions(self) -> int:
        """Return how many sessions are kept."""
        with self._database.transaction(writes=False) as db:
            return db.scalar(sa.select(sa.func.count()).select_from(tables.sessions)) or 0

    def states(self) -> dict[str, int]:
        """Return how many sessions are kept in each state."""
        state, count = tables.sessions.c.state, sa.func.count()
        with self._database.transaction(writes=False) as db:
            rows = db.execute(sa.select(state, count).group_by(state).order_by(state)).all()
            return {str(name): int(number) for name, number in rows}

    def releases(self, *, since: int = 0) -> Iterator[Link]:
        """Yield the release log from an index on, without stopping the broker that writes it."""
        with self._database.transaction(writes=False) as db:
            place = tables.releases.c.place
            wanted = sa.select(tables.releases).where(place >= since).order_by(place)
            for row in db.execution_options(yield_per=500).execute(wanted):
                previous, digest = Digest("sha256", row.previous), Digest("sha256", row.hash)
                yield Link(row.place, previous, row.entry, digest)

    def adopt(self, path: str, *, document: Digest, minimum_version: int, entry: Entry) -> None:
        """Take a wrapped key into service; an older one than was ever served is refused."""
        with self._database.transaction() as db:
            row = db.execute(
                sa.select(tables.resources).where(tables.resources.c.path == path)
            ).one_or_none()
            if row is not None and row.minimum_version > minimum_version:
                raise ConfigError(
                    "wrapped-key-rollback",
                    f"{path}: version {minimum_version} after {row.minimum_version}",
                )
            if row is not None and row.document == document.value:
                return
            values = {"minimum_version": minimum_version, "document": document.value}
            if row is None:
                db.execute(sa.insert(tables.resources).values(path=path, **values))
            else:
                db.execute(
                    sa.update(tables.resources)
                    .where(tables.resources.c.path == path)
                    .values(**values)
                )
            append_entry(db, entry)


def _live(db: sa.Connection, session_id: str, *, now: datetime) -> Any:
    row = db.execute(
        sa.select(tables.sessions).where(tables.sessions.c.id == session_id)
    ).one_or_none()
    if row is None:
        raise NotAuthentic("session-unknown", "there is no such session")
    if row.expires <= now.timestamp():
        raise NotAuthentic("session-expired", "the session is over")
    return row


def _of(session_id: str) -> sa.Update:
    return sa.update(tables.sessions).where(tables.sessions.c.id == session_id)


def append_entry(db: sa.Connection, entry: Entry) -> Head:
    """Append one entry to the release log in a writing transaction."""
    last = db.execute(
        sa.select(tables.releases).order_by(tables.releases.c.place.desc()).limit(1)
    ).first()
    head = EMPTY if last is None else Head(last.place + 1, Digest("sha256", last.hash))
    new = link(head, entry.canonical())
    db.execute(
        sa.insert(tables.releases).values(
            place=new.index, previous=new.previous.value, entry=new.entry, hash=new.hash.value
        )
    )
    return Head(new.index + 1, new.hash)


def _count(db: sa.Connection, *, act: str, code: str, now: datetime) -> None:
    key = {"day": now.date().isoformat(), "act": act, "code": code}
    same = sa.and_(*(tables.tallies.c[name] == value for name, value in key.items()))
    more = sa.update(tables.tallies).where(same).values(total=tables.tallies.c.total + 1)
    if not db.execute(more).rowcount:
        db.execute(sa.insert(tables.tallies).values(**key, total=1))
