"""Pages without a document, by where they led and by their content: found when the document is forgotten

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for name, column in (("ix_pages_led_to", "final_url"), ("ix_pages_same_content", "content_hash")):
        few = sa.text(f"source_id IS NULL AND {column} IS NOT NULL")
        op.create_index(name, "pages", ["job_id", column], postgresql_where=few)


def downgrade() -> None:
    op.drop_index("ix_pages_same_content", table_name="pages")
    op.drop_index("ix_pages_led_to", table_name="pages")
