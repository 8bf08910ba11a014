"""Collect lanes that are split by host, and pauses of hosts that outlast a worker

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "job_progress",
        sa.Column("pauses", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.create_table(
        "collect_shards",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("shards", sa.Integer(), nullable=False),
        sa.Column("lease", sa.UUID(), nullable=False),
        sa.Column("pages_held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("out_of_bytes", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_collect_shards_job_id")),
        sa.PrimaryKeyConstraint("job_id", "shard", name=op.f("pk_collect_shards")),
    )


def downgrade() -> None:
    op.drop_table("collect_shards")
    op.drop_column("job_progress", "pauses")
