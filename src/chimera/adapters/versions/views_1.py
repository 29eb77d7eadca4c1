"""Documents, checkpoints, and the counter that revisions come from."""

import sqlalchemy as sa
from alembic import context, op

from chimera.adapters.relational.schema import DATA, KEY, TABLE_OPTIONS

revision = "views_1"
down_revision = None
branch_labels = ("views",)


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "documents",
        sa.Column("view", KEY, primary_key=True),
        sa.Column("key", KEY, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("data", DATA, nullable=False),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
    op.create_table(
        "checkpoints",
        sa.Column("consumer", KEY, primary_key=True),
        sa.Column("source", KEY, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
    if context.get_context().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE IF NOT EXISTS revisions")
        return
    op.create_table(
        "revisions",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
    op.execute("INSERT IGNORE INTO revisions VALUES ('documents', 0)")
