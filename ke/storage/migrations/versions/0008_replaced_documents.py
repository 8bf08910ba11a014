"""What a re-crawl has in common with the earlier job: how many pages, and which documents it replaces

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("pages", sa.Column("previous_source_id", sa.UUID(), nullable=True))
    op.create_index(
        "ix_pages_replaced",
        "pages",
        ["job_id", "seq"],
        postgresql_where=sa.text("previous_source_id IS NOT NULL"),
    )
    op.add_column("job_progress", sa.Column("earlier_pages", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_progress", "earlier_pages")
    op.drop_index("ix_pages_replaced", table_name="pages")
    op.drop_column("pages", "previous_source_id")
