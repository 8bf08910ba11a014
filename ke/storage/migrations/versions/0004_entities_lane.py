"""An entities lane of its own, and entities merged by project

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

from ke.contracts.ids import merged_entity_id
from ke.contracts.merging import merge_key

revision = "0004"
down_revision = "0003"

_LANE = op.f("ck_job_progress_lane")
_COUNTERS = ("entity_sources", "entity_sources_skipped")
_PIECE = 20_000
"""Mentions that one statement reads and one writes."""


def upgrade() -> None:
    for counter in _COUNTERS:
        op.add_column("job_progress", sa.Column(counter, sa.BigInteger(), server_default="0", nullable=False))
    op.drop_constraint(_LANE, "job_progress")
    op.create_check_constraint(_LANE, "job_progress", "lane IN ('collect', 'extract', 'entities')")
    op.create_table(
        "entity_tasks",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("source_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("claim", sa.UUID(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_chunk", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'claimed', 'done', 'failed', 'skipped')", name=op.f("ck_entity_tasks_state")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_entity_tasks_job_id")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["sources.id"], name=op.f("fk_entity_tasks_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "source_id", name=op.f("pk_entity_tasks")),
    )
    op.create_index(op.f("ix_entity_tasks_job_id_state_seq"), "entity_tasks", ["job_id", "state", "seq"])
    op.create_index(op.f("ix_entity_tasks_source_id"), "entity_tasks", ["source_id"])
    op.add_column("entities", sa.Column("project", sa.Text(), nullable=True))
    op.add_column("entities", sa.Column("key", sa.Text(collation="C"), nullable=True))
    op.add_column("entities", sa.Column("merged_id", sa.UUID(), nullable=True))
    _merge_what_is_there(op.get_bind())
    op.create_index(op.f("ix_entities_merged_id"), "entities", ["merged_id"])
    op.create_index("ix_entities_merged", "entities", ["project", "key", "label", "merged_id"])


def _merge_what_is_there(connection: sa.Connection) -> None:
    """Gives the mentions of before their keys, which SQL cannot make, in pieces."""
    read = sa.text(
        "SELECT e.seq, e.id, j.project, e.label, e.text FROM entities e JOIN jobs j ON j.id = e.job_id"
        " WHERE e.seq > :after ORDER BY e.seq LIMIT :piece"
    )
    write = sa.text(
        "UPDATE entities e SET project = m.project, key = m.key, merged_id = m.merged_id"
        " FROM unnest(CAST(:ids AS uuid[]), CAST(:projects AS text[]), CAST(:keys AS text[]), CAST(:merged AS uuid[]))"
        " AS m (id, project, key, merged_id) WHERE e.id = m.id"
    )
    after = 0
    while rows := connection.execute(read, {"after": after, "piece": _PIECE}).all():
        keys = [merge_key(row.text) for row in rows]
        connection.execute(
            write,
            {
                "ids": [row.id for row in rows],
                "projects": [row.project for row in rows],
                "keys": keys,
                "merged": [merged_entity_id(row.project, row.label, key) for row, key in zip(rows, keys, strict=True)],
            },
        )
        after = rows[-1].seq


def downgrade() -> None:
    op.drop_index("ix_entities_merged", table_name="entities")
    op.drop_index(op.f("ix_entities_merged_id"), table_name="entities")
    for column in ("merged_id", "key", "project"):
        op.drop_column("entities", column)
    op.drop_table("entity_tasks")
    op.execute("DELETE FROM job_progress WHERE lane = 'entities'")
    op.drop_constraint(_LANE, "job_progress")
    op.create_check_constraint(_LANE, "job_progress", "lane IN ('collect', 'extract')")
    for counter in reversed(_COUNTERS):
        op.drop_column("job_progress", counter)
