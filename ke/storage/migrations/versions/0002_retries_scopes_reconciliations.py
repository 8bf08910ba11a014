"""Retries of dead letters, cleanups of a source or a project, reconciliations

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("namespace_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("retry_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("retries", sa.Integer(), server_default="0", nullable=False))
    op.create_index("ix_jobs_retried", "jobs", ["id"], postgresql_where=sa.text("retry_id IS NOT NULL"))
    op.create_index(
        "ix_jobs_uncleaned", "jobs", ["id"], postgresql_where=sa.text("artifacts IN ('cleaning', 'cleanup_failed')")
    )
    op.create_table(
        "retries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("selection", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("letters", sa.Integer(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('running', 'completed', 'cancelled', 'failed')", name=op.f("ck_retries_status")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_retries_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retries")),
    )
    op.create_index(op.f("ix_retries_job_id_number"), "retries", ["job_id", "number"], unique=True)
    op.add_column("cleanups", sa.Column("scope", sa.Text(), server_default="job", nullable=False))
    op.add_column("cleanups", sa.Column("source_id", sa.UUID(), nullable=True))
    op.add_column("cleanups", sa.Column("project", sa.Text(), nullable=True))
    op.add_column("cleanups", sa.Column("part_of", sa.Text(), nullable=True))
    op.add_column("cleanups", sa.Column("jobs", sa.Integer(), nullable=True))
    op.alter_column("cleanups", "job_id", nullable=True)
    op.create_check_constraint(op.f("ck_cleanups_scope"), "cleanups", "scope IN ('job', 'source', 'project')")
    op.create_index(
        op.f("ix_cleanups_part_of"), "cleanups", ["part_of"], postgresql_where=sa.text("part_of IS NOT NULL")
    )
    op.create_index("ix_cleanups_running", "cleanups", ["id"], postgresql_where=sa.text("status <> 'cleaned'"))
    op.create_index(op.f("ix_dead_letters_subject_id"), "dead_letters", ["subject_id"])
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("repair", sa.Boolean(), nullable=False),
        sa.Column("max_share", sa.Float(), nullable=False),
        sa.Column("findings", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'completed', 'stopped', 'failed')", name=op.f("ck_reconciliations_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
    )
    op.create_index(op.f("ix_reconciliations_seq"), "reconciliations", ["seq"], unique=True)


def downgrade() -> None:
    op.drop_index(op.f("ix_reconciliations_seq"), table_name="reconciliations")
    op.drop_table("reconciliations")
    op.drop_index(op.f("ix_dead_letters_subject_id"), table_name="dead_letters")
    op.drop_index("ix_cleanups_running", table_name="cleanups")
    op.drop_index(op.f("ix_cleanups_part_of"), table_name="cleanups")
    op.drop_constraint(op.f("ck_cleanups_scope"), "cleanups")
    op.execute("DELETE FROM cleanups WHERE scope <> 'job'")
    op.alter_column("cleanups", "job_id", nullable=False)
    for column in ("jobs", "part_of", "project", "source_id", "scope"):
        op.drop_column("cleanups", column)
    op.drop_index(op.f("ix_retries_job_id_number"), table_name="retries")
    op.drop_table("retries")
    op.drop_index("ix_jobs_uncleaned", table_name="jobs")
    op.drop_index("ix_jobs_retried", table_name="jobs")
    for column in ("retries", "retry_id", "namespace_id"):
        op.drop_column("jobs", column)
