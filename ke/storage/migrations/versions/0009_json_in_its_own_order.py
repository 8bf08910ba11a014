"""Parameters of jobs, and records, as json: jsonb forgets in which order a schema names its properties

Rows of before keep the order that jsonb gave them. Both tables are written anew.

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    _move(postgresql.JSONB(), postgresql.JSON())


def downgrade() -> None:
    _move(postgresql.JSON(), postgresql.JSONB())


def _move(before: sa.JSON, after: sa.JSON) -> None:
    name = type(after).__name__.lower()
    op.alter_column("jobs", "params", existing_type=before, server_default=None)
    op.alter_column("jobs", "params", existing_type=before, type_=after, postgresql_using=f"params::{name}")
    op.alter_column("jobs", "params", existing_type=after, server_default=sa.text(f"'{{}}'::{name}"))
    op.alter_column("records", "data", existing_type=before, type_=after, postgresql_using=f"data::{name}")
