"""What the rules of a key need: uses, requests for approval, approvals, revocations, imports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "uses",
        sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("resource", sa.String(1024), nullable=False),
        sa.Column("guest", sa.LargeBinary(32), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("uses_by_guest", "uses", ["guest", "at"])
    op.create_table(
        "requests",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("resource", sa.String(1024), nullable=False),
        sa.Column("guest", sa.LargeBinary(32), nullable=False),
        sa.Column("asked", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "approvals",
        sa.Column("request", sa.String(64), primary_key=True),
        sa.Column("person", sa.String(128), primary_key=True),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "revoked",
        sa.Column("key", sa.LargeBinary(32), primary_key=True),
        sa.Column("resource", sa.String(1024), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("person", sa.String(128), nullable=False),
    )
    op.create_table(
        "imports",
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
