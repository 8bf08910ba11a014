"""Search by words: stems of each chunk with their index, and indexes for what a search filters by

Revision: 0003, after 0002

Adding the column writes `extractions` anew: some seconds for each 10,000 chunks.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column(
        "extractions",
        sa.Column(
            "words",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('english'::regconfig, translate((heading || ' '::text) || text, '<>'::text, '  '::text))",
                persisted=True,
            ),
            nullable=False,
        ),
    )
    op.create_index(
        "ix_extractions_words",
        "extractions",
        ["words"],
        postgresql_using="gin",
        postgresql_where=sa.text("state = 'ready'"),
        postgresql_with={"gin_pending_list_limit": 1024},
    )
    op.create_index("ix_sources_url", "sources", ["url"], postgresql_ops={"url": "text_pattern_ops"})
    for name, length in (("language", 35), ("date", 10)):
        value: sa.Label[str] = sa.literal_column(f"\"left\"(metadata ->> '{name}', {length})").label(name)
        op.create_index(f"ix_sources_{name}", "sources", [value], postgresql_ops={name: "text_pattern_ops"})
    op.create_index("ix_entities_name", "entities", [sa.text('"left"(lower(text), 64)')])


def downgrade() -> None:
    op.drop_index("ix_entities_name", table_name="entities")
    for name in ("date", "language", "url"):
        op.drop_index(f"ix_sources_{name}", table_name="sources")
    op.drop_index("ix_extractions_words", table_name="extractions")
    op.drop_column("extractions", "words")
