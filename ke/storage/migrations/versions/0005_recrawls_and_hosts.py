"""Pages that a re-crawl finds unchanged or gone, the document that each page has, and hosts that take turns

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

OPEN = sa.text("state IN ('pending', 'fetching')")


def upgrade() -> None:
    for name in ("pages_unchanged", "pages_gone"):
        op.add_column("job_progress", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("pages", sa.Column("host", sa.Text(), server_default="", nullable=False))
    op.add_column("pages", sa.Column("canonical_url", sa.Text(), nullable=True))
    op.add_column("pages", sa.Column("source_id", sa.UUID(), nullable=True))
    # Canonical URLs: no user name, no default port, and an IPv6 address in brackets.
    op.execute(
        "UPDATE pages p SET host = q.host || CASE WHEN q.host ~ ':[0-9]+$' THEN '' WHEN p.url LIKE 'https:%' THEN '\\:443'"
        " ELSE '\\:80' END FROM (SELECT id, coalesce(substring(url from '^https?://([^/?#]+)'), '') AS host FROM pages) q"
        " WHERE q.id = p.id AND q.host <> ''"
    )
    # The document of a page: the one at its address, else the one with its content.
    op.execute(
        "UPDATE pages p SET source_id = s.id FROM sources s WHERE s.job_id = p.job_id"
        " AND s.url = coalesce(p.final_url, p.url) AND p.state IN ('fetched', 'duplicate') AND p.content_hash IS NOT NULL"
    )
    op.execute(
        "UPDATE pages p SET source_id = s.id FROM sources s WHERE s.job_id = p.job_id"
        " AND s.content_hash = p.content_hash AND p.state IN ('fetched', 'duplicate') AND p.source_id IS NULL"
    )
    op.drop_constraint(op.f("ck_pages_state"), "pages")
    op.create_check_constraint(
        op.f("ck_pages_state"),
        "pages",
        "state IN ('pending', 'fetching', 'fetched', 'duplicate', 'unchanged', 'gone', 'failed', 'skipped')",
    )
    op.drop_index("ix_pages_frontier", table_name="pages")
    op.create_index("ix_pages_frontier", "pages", ["job_id", "host", "depth", "seq"], postgresql_where=OPEN)
    named = sa.text("source_id IS NOT NULL")
    op.create_index("ix_pages_source_id", "pages", ["source_id"], postgresql_where=named)


def downgrade() -> None:
    op.drop_index("ix_pages_source_id", table_name="pages")
    op.drop_index("ix_pages_frontier", table_name="pages")
    op.create_index("ix_pages_frontier", "pages", ["job_id", "depth", "seq"], postgresql_where=OPEN)
    op.execute("UPDATE pages SET state = 'skipped', reason = state WHERE state IN ('unchanged', 'gone')")
    op.drop_constraint(op.f("ck_pages_state"), "pages")
    op.create_check_constraint(
        op.f("ck_pages_state"),
        "pages",
        "state IN ('pending', 'fetching', 'fetched', 'duplicate', 'failed', 'skipped')",
    )
    for column in ("source_id", "canonical_url", "host"):
        op.drop_column("pages", column)
    for name in ("pages_gone", "pages_unchanged"):
        op.drop_column("job_progress", name)
