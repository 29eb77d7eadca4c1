"""The chain of each partition: at its events, at its head, and where it was trimmed."""

import sqlalchemy as sa
from alembic import op

from chimera.adapters.relational.schema import CHAIN

revision = "store_2"
down_revision = "store_1"


def upgrade() -> None:
    """Add the columns: what is there already has no chain."""
    op.add_column("heads", sa.Column("chain", CHAIN, nullable=True))
    op.add_column("heads", sa.Column("trimmed", sa.BigInteger, nullable=True))
    op.add_column("heads", sa.Column("anchor", CHAIN, nullable=True))
    op.add_column("journal", sa.Column("chain", CHAIN, nullable=True))
