"""The page that a URL was first found on

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("pages", sa.Column("found_on", postgresql.UUID(as_uuid=True)))


def downgrade() -> None:
    op.drop_column("pages", "found_on")
