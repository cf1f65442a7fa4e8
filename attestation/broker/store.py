"""Sessions, counts and the release log in a database; what cannot be recorded does not happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from attestation.broker.releaselog import EMPTY, Entry, Head, Link, link
from attestation.errors import ConfigError, NotAuthentic, Undecidable
from attestation.types import Digest

MAX_RESOURCE_REQUESTS = 64
"""Resource requests of one session; bounds what one attestation can add to the log."""

_schema = sa.MetaData()
_sessions = sa.Table(
    "sessions",
    _schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("nonce", sa.String(44), nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("attestation", sa.LargeBinary, nullable=True),
    sa.Index("sessions_by_age", "state", "expires"),
)
_tallies = sa.Table(
    "tallies",
    _schema,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("act", sa.String(16), primary_key=True),
    sa.Column("code", sa.String(64), primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
)
_releases = sa.Table(
    "releases",
    _schema,
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("previous", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
)
_resources = sa.Table(
    "resources",
    _schema,
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("minimum_version", sa.BigInteger, nullable=False),
    sa.Column("document", sa.LargeBinary(32), nullable=False),
)


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
    Two processes may share a PostgreSQL store; the chain cannot fork, because `place` and
    `previous` are unique.
    """

    def __init__(self, url: str | sa.URL) -> None:
        try:
            self._engine = _engine(sa.make_url(url))
            with self._engine.begin() as db:
                _schema.create_all(db)
        except (SQLAlchemyError, ModuleNotFoundError):
            raise ConfigError("broker-store-url", "the store cannot be opened") from None

    @classmethod
    def existing(cls, url: str | sa.URL) -> Store:
        """Open a store to read it; one that does not exist is not made and is no empty log."""
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            named = f"file:{quote(parsed.database or '')}"
            parsed = parsed.set(database=named, query={"mode": "rw", "uri": "true"})
        return cls(parsed)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def challenge(self, session: Challenged, *, now: datetime, limit: int) -> None:
        """Keep a new session; purge expired ones, and evict the oldest challenge over `limit`.

        A flood of requests for challenges can so push out challenges, but never attested sessions,
        and never more than `limit` rows exist.
        """
        with self._transaction() as db:
            db.execute(sa.delete(_sessions).where(_sessions.c.expires <= now.timestamp()))
            count = db.scalar(sa.select(sa.func.count()).select_from(_sessions)) or 0
            if count >= limit:
                oldest = (
                    sa.select(_sessions.c.id)
                    .where(_sessions.c.state != "attested")
                    .order_by(_sessions.c.expires)
                    .limit(1)
                )
                row = db.scalar(oldest)
                if row is None:
                    raise Undecidable("broker-busy", f"{count} guests hold sessions")
                db.execute(sa.delete(_sessions).where(_sessions.c.id == row))
            db.execute(
                sa.insert(_sessions).values(
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
        with self._transaction() as db:
            row = _live(db, session_id, now=now)
            if row.state != "challenged":
                raise NotAuthentic("session-spent", "this session has been attested with already")
            db.execute(_of(session_id).values(state="spent"))
            return Challenged(session_id, row.nonce, datetime.fromtimestamp(row.expires, UTC))

    def attest(self, session_id: str, *, attestation: bytes, entry: Entry) -> None:
        """Record that the guest of a spent session was affirmed, and by which evidence."""
        with self._transaction() as db:
            attested = _of(session_id).where(_sessions.c.state == "spent")
            if db.execute(attested.values(state="attested", attestation=attestation)).rowcount != 1:
                raise NotAuthentic("session-unknown", "the session ended while it was attested")
            _append(db, entry)

    def attested(self, session_id: str, *, now: datetime) -> Attested:
        """Return a live attested session, and count the request it makes."""
        with self._transaction() as db:
            row = _live(db, session_id, now=now)
            if row.state != "attested":
                raise NotAuthentic("session-unattested", "this session has not been attested")
            if row.requests >= MAX_RESOURCE_REQUESTS:
                raise NotAuthentic("session-exhausted", f"{row.requests} requests in one session")
            db.execute(_of(session_id).values(requests=row.requests + 1))
            return Attested(session_id, row.nonce, row.attestation)

    def append(self, entry: Entry) -> Head:
        """Append one entry to the release log; it is on disk when this returns."""
        with self._transaction() as db:
            return _append(db, entry)

    def tally(self, *, act: str, code: str, now: datetime) -> None:
        """Count a refusal of somebody unauthenticated: one row a day and code, however many."""
        with self._transaction() as db:
            _count(db, act=act, code=code, now=now)

    def tallies(self) -> tuple[tuple[str, str, str, int], ...]:
        """Return (day, act, code, count), oldest first."""
        with self._transaction(writes=False) as db:
            rows = db.execute(sa.select(_tallies).order_by(*_tallies.primary_key.columns)).all()
            return tuple((row.day, row.act, row.code, row.total) for row in rows)

    def sessions(self) -> int:
        """Return how many sessions are kept."""
        with self._transaction(writes=False) as db:
            return db.scalar(sa.select(sa.func.count()).select_from(_sessions)) or 0

    def releases(self) -> Iterator[Link]:
        """Yield the release log from its start, without stopping the broker that writes it."""
        with self._transaction(writes=False) as db:
            for row in db.execute(sa.select(_releases).order_by(_releases.c.place)):
                previous, digest = Digest("sha256", row.previous), Digest("sha256", row.hash)
                yield Link(row.place, previous, row.entry, digest)

    def adopt(self, path: str, *, document: Digest, minimum_version: int, entry: Entry) -> None:
        """Take a wrapped key into service; an older one than was ever served is refused."""
        with self._transaction() as db:
            row = db.execute(sa.select(_resources).where(_resources.c.path == path)).one_or_none()
            if row is not None and row.minimum_version > minimum_version:
                raise ConfigError(
                    "wrapped-key-rollback",
                    f"{path}: version {minimum_version} after {row.minimum_version}",
                )
            if row is not None and row.document == document.value:
                return
            values = {"minimum_version": minimum_version, "document": document.value}
            if row is None:
                db.execute(sa.insert(_resources).values(path=path, **values))
            else:
                db.execute(sa.update(_resources).where(_resources.c.path == path).values(**values))
            _append(db, entry)

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as plain:
                db = plain.execution_options(tacit_writes=writes)
                with db.begin():
                    yield db
        except SQLAlchemyError as error:
            kind = type(error).__name__
            raise Undecidable("broker-store", f"the store failed: {kind}") from None


def sqlite_url(path: str) -> sa.URL:
    """Return the URL of the SQLite file at `path`."""
    return sa.URL.create("sqlite", database=path)


def _engine(parsed: sa.URL) -> sa.Engine:
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": 2}, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # this driver would begin transactions by itself, late
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # an answer is sent only when its entry survives a power cut
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("tacit_writes", True)
        # a reader that turns writer can fail half way; a writer takes its lock first
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _live(db: sa.Connection, session_id: str, *, now: datetime) -> Any:
    row = db.execute(sa.select(_sessions).where(_sessions.c.id == session_id)).one_or_none()
    if row is None:
        raise NotAuthentic("session-unknown", "there is no such session")
    if row.expires <= now.timestamp():
        raise NotAuthentic("session-expired", "the session is over")
    return row


def _of(session_id: str) -> sa.Update:
    return sa.update(_sessions).where(_sessions.c.id == session_id)


def _append(db: sa.Connection, entry: Entry) -> Head:
    last = db.execute(sa.select(_releases).order_by(_releases.c.place.desc()).limit(1)).first()
    head = EMPTY if last is None else Head(last.place + 1, Digest("sha256", last.hash))
    new = link(head, entry.canonical())
    db.execute(
        sa.insert(_releases).values(
            place=new.index, previous=new.previous.value, entry=new.entry, hash=new.hash.value
        )
    )
    return Head(new.index + 1, new.hash)


def _count(db: sa.Connection, *, act: str, code: str, now: datetime) -> None:
    key = {"day": now.date().isoformat(), "act": act, "code": code}
    same = sa.and_(*(_tallies.c[name] == value for name, value in key.items()))
    if db.execute(sa.update(_tallies).where(same).values(total=_tallies.c.total + 1)).rowcount == 0:
        db.execute(sa.insert(_tallies).values(**key, total=1))
