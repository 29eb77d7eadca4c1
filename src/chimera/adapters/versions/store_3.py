"""What an event carries of the request that it came from."""

import sqlalchemy as sa
from alembic import op

revision = "store_3"
down_revision = "store_2"


def upgrade() -> None:
    """Add the column: what is there already says nothing of it."""
    op.add_column("journal", sa.Column("metadata", sa.Text, nullable=True))
