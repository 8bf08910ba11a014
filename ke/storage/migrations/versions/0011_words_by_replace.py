"""The stems of a chunk by `replace`, an eighth faster to make than by `translate`, and the same

Revision: 0011, after 0010

`extractions` is written anew: a second or so for each 10,000 chunks.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    _make_words("replace(replace((heading || ' '::text) || text, '<'::text, ' '::text), '>'::text, ' '::text)")


def downgrade() -> None:
    _make_words("translate((heading || ' '::text) || text, '<>'::text, '  '::text)")


def _make_words(text: str) -> None:
    op.drop_index("ix_extractions_words", table_name="extractions")
    op.drop_column("extractions", "words")
    words = sa.Computed(f"to_tsvector('english'::regconfig, {text})", persisted=True)
    op.add_column("extractions", sa.Column("words", postgresql.TSVECTOR(), words, nullable=False))
    op.create_index(
        "ix_extractions_words",
        "extractions",
        ["words"],
        postgresql_using="gin",
        postgresql_where=sa.text("state = 'ready'"),
        postgresql_with={"gin_pending_list_limit": 1024},
    )
