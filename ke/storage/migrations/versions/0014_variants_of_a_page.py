"""What the variants of a page have in common, so that one is found whichever comes first

Revision: 0014, after 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("sources", sa.Column("canonical_hash", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_sources_variants",
        "sources",
        ["canonical_hash", "job_id"],
        postgresql_where=sa.text("canonical_hash IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_sources_variants", table_name="sources")
    op.drop_column("sources", "canonical_hash")
