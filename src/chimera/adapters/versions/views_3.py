"""The entries of lists: what they are of follows from their places."""

import sqlalchemy as sa
from alembic import op

from chimera.adapters.relational.schema import KEY, PLACE, TABLE_OPTIONS, WITHIN

revision = "views_3"
down_revision = "views_2"


def upgrade() -> None:
    """Create the table: no view had lists before."""
    op.create_table(
        "chimera_lists",
        sa.Column("view", KEY, primary_key=True),
        sa.Column("within", WITHIN, primary_key=True),
        sa.Column("at", PLACE, primary_key=True),
        if_not_exists=True,
        **TABLE_OPTIONS,
    )
