"""The chain at which each checkpoint stands."""

import sqlalchemy as sa
from alembic import op

from chimera.adapters.relational.schema import CHAIN

revision = "views_2"
down_revision = "views_1"


def upgrade() -> None:
    """Add the column: of the checkpoints that are there it is not known."""
    op.add_column("checkpoints", sa.Column("chain", CHAIN, nullable=True))
