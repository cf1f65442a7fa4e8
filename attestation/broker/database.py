"""A database URL in, durable transactions out: SQLite in a file, or PostgreSQL for two brokers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from attestation.broker.schema import REVISION
from attestation.errors import ConfigError, Undecidable

_WRITER = 0x7461636974  # "tacit"
"""The advisory lock of whoever writes; locks are per database."""

_MIGRATING = threading.Lock()
"""Alembic keeps the migration at work in module state."""


class Database:
    """One engine. A writing transaction is alone in its database, whichever process began it.

    SQLite locks its file (`BEGIN IMMEDIATE`); PostgreSQL takes one advisory lock. What is read in
    a writing transaction so stays true until it ends, and the release log cannot fork. A broker
    that dies lets go of the lock with its connection.
    """

    def __init__(self, url: sa.URL) -> None:
        self._sqlite = url.get_backend_name() == "sqlite"
        self._engine = _sqlite(url) if self._sqlite else _postgresql(url)

    @classmethod
    def migrated(cls, url: str | sa.URL) -> Database:
        """Open a database, making or moving its tables to this release's version."""
        with _opened(cls, sa.make_url(url)) as database, database.transaction() as db:
            found = _revision(db)
            if found != REVISION:
                _migrate(db, found)
        return database

    @classmethod
    def existing(cls, url: str | sa.URL) -> Database:
        """Open a database to read it; one that does not exist is not made and not migrated."""
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            named = f"file:{quote(parsed.database or '')}"
            parsed = parsed.set(database=named, query={"mode": "rw", "uri": "true"})
        with _opened(cls, parsed) as database, database.transaction(writes=False) as db:
            if not sa.inspect(db).has_table("releases"):
                raise ConfigError("broker-store-url", "the database is no broker's store")
        return database

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[sa.Connection]:
        """Yield a connection whose work is durable when the block ends, or was never done."""
        try:
            with self._engine.connect() as plain:
                db = plain.execution_options(tacit_writes=writes)
                with db.begin():
                    if writes and not self._sqlite:
                        db.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER)))
                    yield db
        except SQLAlchemyError as error:
            kind = type(error).__name__
            raise Undecidable("broker-store", f"the store failed: {kind}") from None

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


@contextmanager
def _opened(kind: type[Database], url: sa.URL) -> Iterator[Database]:
    """Yield a database that stays open unless the block fails."""
    try:
        database = kind(url)
    except (SQLAlchemyError, ModuleNotFoundError):
        raise ConfigError("broker-store-url", "the store cannot be opened") from None
    try:
        yield database
    except ConfigError:
        database.close()
        raise
    except Undecidable:
        database.close()
        raise ConfigError("broker-store-url", "the store cannot be opened") from None


def sqlite_url(path: str) -> sa.URL:
    """Return the URL of the SQLite file at `path`."""
    return sa.URL.create("sqlite", database=path)


def postgresql_url(text: str, *, encrypted: bool) -> sa.URL:
    """Parse `postgresql://USER@HOST/DATABASE?…`, or raise `ConfigError`.

    A password belongs into a file (`passfile=`). With `encrypted`, a host across a network must be
    verified: `sslmode=verify-full` and `sslrootcert=`.
    """
    try:
        url = sa.make_url(text).set(drivername="postgresql+psycopg")
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError("broker-store-url", "the store is no URL") from None
    if url.password is not None or "password" in url.query:
        raise ConfigError("broker-store-url", "the URL holds a password; name a passfile")
    host = url.host or url.query.get("host", "/")
    local = isinstance(host, str) and host.startswith("/")
    if encrypted and not local and url.query.get("sslmode") != "verify-full":
        raise ConfigError("broker-store-url", "a store across a network needs sslmode=verify-full")
    return url


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 2}, hide_parameters=True)

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


def _postgresql(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,  # the database may have been restarted since
        pool_size=8,
        max_overflow=8,
        pool_timeout=5,
        connect_args={"connect_timeout": 5, "application_name": "tacit-broker"},
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        for setting in (
            "lock_timeout = '4s'",  # another broker that hangs with the lock
            "statement_timeout = '10s'",
            "idle_in_transaction_session_timeout = '10s'",  # so that it does not hang for ever
            "synchronous_commit = on",  # an answer is sent only when its entry survives
        ):
            connection.execute(f"SET {setting}")
        connection.commit()

    return engine


def _revision(db: sa.Connection) -> str | None:
    if not sa.inspect(db).has_table("alembic_version"):
        return None
    found = db.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def _migrate(db: sa.Connection, found: str | None) -> None:
    """Run the steps between `found` and this release in the transaction of `db`."""
    from alembic.config import Config  # noqa: PLC0415 - half a second that most starts do not need
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "attestation.broker:migrations")
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in scripts.walk_revisions()]
    if found is not None and found not in known:
        raise ConfigError("broker-store-newer", f"the store is at {found}, this broker {REVISION}")

    def steps(revision: Any, _context: Any) -> Any:
        return scripts._upgrade_revs(REVISION, revision)  # noqa: SLF001 - as alembic.command does

    with _MIGRATING, EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=db)
        environment.run_migrations()
