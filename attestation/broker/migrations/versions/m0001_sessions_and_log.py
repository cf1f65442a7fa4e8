"""Sessions, counts, the release log and the newest wrapped key of every resource."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the four tables; stores that are older than the migrations have them already."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("nonce", sa.String(44), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("attestation", sa.LargeBinary, nullable=True),
        if_not_exists=True,
    )
    op.create_index("ix_sessions_expires", "sessions", ["expires"], if_not_exists=True)
    op.create_index("sessions_by_age", "sessions", ["state", "expires"], if_not_exists=True)
    op.create_table(
        "tallies",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("act", sa.String(16), primary_key=True),
        sa.Column("code", sa.String(64), primary_key=True),
        sa.Column("total", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "releases",
        sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("previous", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False, unique=True),
        if_not_exists=True,
    )
    op.create_table(
        "resources",
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("minimum_version", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary(32), nullable=False),
        if_not_exists=True,
    )
