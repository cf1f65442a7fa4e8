"""The tables of the store as this release reads them; `migrations` makes and changes them."""

from __future__ import annotations

import sqlalchemy as sa

REVISION = "0002"
"""The newest migration; a store at another one is moved to it, or refused if it is newer."""

schema = sa.MetaData()

sessions = sa.Table(
    "sessions",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("nonce", sa.String(44), nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("attestation", sa.LargeBinary, nullable=True),
    sa.Index("sessions_by_age", "state", "expires"),
)
tallies = sa.Table(
    "tallies",
    schema,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("act", sa.String(16), primary_key=True),
    sa.Column("code", sa.String(64), primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
)
releases = sa.Table(
    "releases",
    schema,
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("previous", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
)
resources = sa.Table(
    "resources",
    schema,
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("minimum_version", sa.BigInteger, nullable=False),
    sa.Column("document", sa.LargeBinary(32), nullable=False),
)
uses = sa.Table(
    "uses",
    schema,
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("resource", sa.String(1024), nullable=False),
    sa.Column("guest", sa.LargeBinary(32), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("uses_by_guest", "guest", "at"),
)
requests = sa.Table(
    "requests",
    schema,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("resource", sa.String(1024), nullable=False),
    sa.Column("guest", sa.LargeBinary(32), nullable=False),
    sa.Column("asked", sa.Float, nullable=False, index=True),
)
approvals = sa.Table(
    "approvals",
    schema,
    sa.Column("request", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(128), primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
)
revoked = sa.Table(
    "revoked",
    schema,
    sa.Column("key", sa.LargeBinary(32), primary_key=True),
    sa.Column("resource", sa.String(1024), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("person", sa.String(128), nullable=False),
)
imports = sa.Table(
    "imports",
    schema,
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
)
