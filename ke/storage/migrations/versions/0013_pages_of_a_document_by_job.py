"""Pages of a document by job, so that one job's is found among those of all its re-crawls

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_NAMED = sa.text("source_id IS NOT NULL")


def upgrade() -> None:
    op.create_index("ix_pages_source_id_job_id", "pages", ["source_id", "job_id"], postgresql_where=_NAMED)
    op.drop_index("ix_pages_source_id", table_name="pages")


def downgrade() -> None:
    op.create_index("ix_pages_source_id", "pages", ["source_id"], postgresql_where=_NAMED)
    op.drop_index("ix_pages_source_id_job_id", table_name="pages")
