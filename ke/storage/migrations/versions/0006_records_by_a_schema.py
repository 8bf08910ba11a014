"""Records by a JSON Schema: their table, their lane, and what they cost

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

_COUNTERS = ("records", "records_skipped", "tokens_in", "tokens_out", "cost_micros")


def upgrade() -> None:
    for name in _COUNTERS:
        op.add_column("job_progress", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.drop_constraint(op.f("ck_job_progress_lane"), "job_progress")
    op.create_check_constraint(
        op.f("ck_job_progress_lane"), "job_progress", "lane IN ('collect', 'extract', 'entities', 'records')"
    )
    op.drop_constraint(op.f("ck_dead_letters_subject"), "dead_letters")
    op.create_check_constraint(
        op.f("ck_dead_letters_subject"), "dead_letters", "subject IN ('page', 'source', 'record')"
    )
    op.add_column("extraction_tasks", sa.Column("record_state", sa.Text(), nullable=True))
    op.add_column("extraction_tasks", sa.Column("record_claim", sa.UUID(), nullable=True))
    op.add_column("extraction_tasks", sa.Column("record_attempts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("extraction_tasks", sa.Column("record_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_extraction_tasks_record_state"),
        "extraction_tasks",
        "record_state IN ('pending', 'claimed', 'done', 'failed', 'skipped')",
    )
    op.create_index(
        "ix_extraction_tasks_records",
        "extraction_tasks",
        ["job_id", "record_state", "seq"],
        postgresql_where=sa.text("record_state IS NOT NULL"),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("owner_job_id", sa.UUID(), nullable=False),
        sa.Column("source_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_records_job_id")),
        sa.ForeignKeyConstraint(["owner_job_id"], ["jobs.id"], name=op.f("fk_records_owner_job_id")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_records_source_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_records")),
    )
    op.create_index(op.f("ix_records_job_id_seq"), "records", ["job_id", "seq"])
    op.create_index(op.f("ix_records_owner_job_id"), "records", ["owner_job_id"])
    op.create_index(op.f("ix_records_source_id"), "records", ["source_id"])


def downgrade() -> None:
    op.drop_table("records")
    op.drop_index("ix_extraction_tasks_records", table_name="extraction_tasks")
    for column in ("record_reason", "record_attempts", "record_claim", "record_state"):
        op.drop_column("extraction_tasks", column)
    op.execute("DELETE FROM dead_letters WHERE subject = 'record'")
    op.drop_constraint(op.f("ck_dead_letters_subject"), "dead_letters")
    op.create_check_constraint(op.f("ck_dead_letters_subject"), "dead_letters", "subject IN ('page', 'source')")
    op.execute("DELETE FROM job_progress WHERE lane = 'records'")
    op.drop_constraint(op.f("ck_job_progress_lane"), "job_progress")
    op.create_check_constraint(
        op.f("ck_job_progress_lane"), "job_progress", "lane IN ('collect', 'extract', 'entities')"
    )
    for name in _COUNTERS:
        op.drop_column("job_progress", name)
