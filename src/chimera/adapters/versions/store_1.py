"""The journal and its heads."""

import sqlalchemy as sa
from alembic import op

from chimera.adapters.relational.schema import DATA, KEY, TABLE_OPTIONS, TEXT

revision = "store_1"
down_revision = None
branch_labels = ("store",)


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "heads",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
    op.create_table(
        "journal",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("time", TEXT, nullable=False),
        sa.Column("data", DATA, nullable=False),
        sa.Column("traceparent", TEXT, nullable=False),
        sa.Index("journal_by_key", "partition", "key", "number"),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
