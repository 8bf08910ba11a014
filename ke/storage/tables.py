"""The tables. Alembic's migrations build them; a test holds the two equal."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, TSVECTOR, UUID

from ke.contracts.cleanup import CleanupScope, CleanupStatus
from ke.contracts.jobs import COUNTER_NAMES, TERMINAL, Artifacts, JobKind, JobStatus, Lane
from ke.contracts.reconciling import ReconcileStatus
from ke.contracts.retries import RetryStatus

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TIME: Final = sa.DateTime(timezone=True)
NOW: Final = sa.text("clock_timestamp()")
EMPTY: Final = sa.text("'{}'::jsonb")


def _one_of(column: str, values: type) -> str:
    names = ", ".join(f"'{value}'" for value in values)  # type: ignore[attr-defined]
    return f"{column} IN ({names})"


def _id() -> sa.Column[object]:
    return sa.Column("id", UUID(as_uuid=True), primary_key=True)


def _seq() -> sa.Column[int]:
    """The order of arrival: what lists are paged by."""
    return sa.Column("seq", sa.BigInteger, sa.Identity(always=True), nullable=False)


def _ref(name: str, target: str, *, cascade: bool = False) -> sa.Column[object]:
    return sa.Column(
        name,
        UUID(as_uuid=True),
        sa.ForeignKey(target, ondelete="CASCADE" if cascade else None),
        nullable=False,
    )


_TERMINAL_SQL: Final = ", ".join(f"'{status}'" for status in sorted(TERMINAL))

jobs = sa.Table(
    "jobs",
    metadata,
    _id(),
    _seq(),
    sa.Column("tenant", sa.Text, nullable=False, server_default="default"),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_hash", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default=JobStatus.QUEUED.value),
    sa.Column("artifacts", sa.Text, nullable=False, server_default=Artifacts.PRESENT.value),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("labels", JSONB, nullable=False, server_default=EMPTY),
    # Not jsonb, which forgets in which order a schema names its properties. A row that the workflow had to write again
    # has them in alphabetical order, as Temporal's payloads are sorted.
    sa.Column("params", JSON, nullable=False, server_default=sa.text("'{}'::json")),
    sa.Column("result", JSONB),
    sa.Column("error", JSONB),
    sa.Column("workflow_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("namespace_id", sa.Text),  # of the Temporal namespace its workflow was started in
    sa.Column("retry_id", sa.Text),  # the retry of dead letters that writes for this ended job, while there is one
    sa.Column("retries", sa.Integer, nullable=False, server_default="0"),  # how many there have been
    sa.Column("write_epoch", sa.Integer, nullable=False, server_default="1"),
    sa.Column("cancel_reason", sa.Text),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("started_at", TIME),
    sa.Column("cancel_requested_at", TIME),
    sa.Column("completed_at", TIME),
    sa.Column("deleted_at", TIME),  # a tombstone: the key stays taken, the rest reads as gone
    sa.CheckConstraint(_one_of("kind", JobKind), name="kind"),
    sa.CheckConstraint(_one_of("status", JobStatus), name="status"),
    sa.CheckConstraint(_one_of("artifacts", Artifacts), name="artifacts"),
    sa.CheckConstraint(
        f"(status IN ({_TERMINAL_SQL})) = (completed_at IS NOT NULL)"
        f" AND (status IN ({_TERMINAL_SQL})) = (result IS NOT NULL)",
        name="terminal",
    ),
    sa.Index(None, "tenant", "idempotency_key", unique=True, postgresql_where=sa.text("idempotency_key IS NOT NULL")),
    sa.Index(None, "seq", unique=True),
    sa.Index(None, "status", postgresql_where=sa.text(f"status NOT IN ({_TERMINAL_SQL})")),
    sa.Index(None, "project", "seq"),
    sa.Index("ix_jobs_retried", "id", postgresql_where=sa.text("retry_id IS NOT NULL")),
    sa.Index("ix_jobs_uncleaned", "id", postgresql_where=sa.text("artifacts IN ('cleaning', 'cleanup_failed')")),
)
"""One row a job. `write_epoch` is the fence: a write whose epoch is not the row's is refused."""

job_progress = sa.Table(
    "job_progress",
    metadata,
    sa.Column("job_id", UUID(as_uuid=True), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("lane", sa.Text, primary_key=True),
    *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTER_NAMES),
    sa.Column("lease", UUID(as_uuid=True)),  # of the slice that works now: what another one still writes is refused
    sa.Column("seeded", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("done", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("earlier_pages", sa.BigInteger),  # of a re-crawl: URLs of the earlier job that are in this frontier
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("pauses", JSONB, nullable=False, server_default=EMPTY),  # hosts not to be asked yet, for the next slice
    sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
    sa.CheckConstraint(_one_of("lane", Lane), name="lane"),
)
"""The counters of each lane, written with each batch; never on the job's row, whose share lock the lanes hold."""

collect_shards = sa.Table(
    "collect_shards",
    metadata,
    sa.Column("job_id", UUID(as_uuid=True), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True),
    sa.Column("shards", sa.Integer, nullable=False),  # into how many the lane was split when this row was taken
    sa.Column("lease", UUID(as_uuid=True), nullable=False),
    sa.Column("pages_held", sa.BigInteger, nullable=False, server_default="0"),  # claimed and not committed
    sa.Column("bytes_held", sa.BigInteger, nullable=False, server_default="0"),  # reserved for these
    sa.Column("out_of_bytes", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
)
"""A part of a collect lane that was split by host: who works on it, and what it has reserved of the job's limits."""

PAGE_STATES: Final = ("pending", "fetching", "fetched", "duplicate", "unchanged", "gone", "failed", "skipped")

pages = sa.Table(
    "pages",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False, server_default=""),  # host:port, which hosts take turns by
    sa.Column("depth", sa.Integer, nullable=False),
    # The first page that it was found on; None of seeds, and of what a sitemap named first. No foreign key: that page
    # may be deleted, or, of what a re-crawl begins with, be out of its scope.
    sa.Column("found_on", UUID(as_uuid=True)),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claim", UUID(as_uuid=True)),
    sa.Column("not_before", TIME),
    sa.Column("http_status", sa.Integer),
    sa.Column("final_url", sa.Text),
    sa.Column("canonical_url", sa.Text),  # what the page names as its own URL, where that is another one
    # The document that has its content: its own, its twin's, or an earlier job's. No foreign key: that may be cleaned.
    sa.Column("source_id", UUID(as_uuid=True)),
    # Of a page that was crawled again and has changed, or is gone: the earlier document. No foreign key either.
    sa.Column("previous_source_id", UUID(as_uuid=True)),
    sa.Column("content_type", sa.Text),
    sa.Column("content_hash", sa.LargeBinary),
    sa.Column("etag", sa.Text),
    sa.Column("last_modified", sa.Text),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("fetched_at", TIME),
    sa.CheckConstraint(f"state IN {PAGE_STATES}", name="state"),
    sa.Index(None, "job_id", "seq"),
    # With the job: of a document that a hundred re-crawls had unchanged, each has a page.
    sa.Index(None, "source_id", "job_id", postgresql_where=sa.text("source_id IS NOT NULL")),
    # Pages without a document that lead to the address, or have the content, of another's: few.
    sa.Index(
        "ix_pages_led_to",
        *("job_id", "final_url"),
        postgresql_where=sa.text("source_id IS NULL AND final_url IS NOT NULL"),
    ),
    sa.Index(
        "ix_pages_same_content",
        *("job_id", "content_hash"),
        postgresql_where=sa.text("source_id IS NULL AND content_hash IS NOT NULL"),
    ),
    sa.Index("ix_pages_replaced", "job_id", "seq", postgresql_where=sa.text("previous_source_id IS NOT NULL")),
    sa.Index(
        "ix_pages_frontier",
        *("job_id", "host", "depth", "seq"),
        postgresql_where=sa.text("state IN ('pending', 'fetching')"),
    ),
)
"""The frontier of a crawl. The id is made of job and canonical URL, so a URL is there once per job."""

sources = sa.Table(
    "sources",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("title", sa.Text),
    sa.Column("text", sa.Text, nullable=False),  # Markdown
    sa.Column("metadata", JSONB, nullable=False, server_default=EMPTY),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("content_hash", sa.LargeBinary, nullable=False),
    # Of another address that the page names as its canonical one, with title and text: what its variants have too.
    sa.Column("canonical_hash", sa.LargeBinary),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("fetched_at", TIME, nullable=False),
    sa.Index(None, "job_id", "seq"),
    sa.Index(None, "job_id", "content_hash"),
    sa.Index("ix_sources_variants", "canonical_hash", "job_id", postgresql_where=sa.text("canonical_hash IS NOT NULL")),
    # What a search filters by; `text_pattern_ops` is for prefixes, and compares bytes.
    sa.Index("ix_sources_url", "url", postgresql_ops={"url": "text_pattern_ops"}),
    sa.Index(
        "ix_sources_language",
        sa.literal_column("\"left\"(metadata ->> 'language', 35)").label("language"),
        postgresql_ops={"language": "text_pattern_ops"},
    ),
    sa.Index(
        "ix_sources_date",
        sa.literal_column("\"left\"(metadata ->> 'date', 10)").label("date"),
        postgresql_ops={"date": "text_pattern_ops"},
    ),
)
"""A stored document, owned by the job that fetched it."""

TASK_STATES: Final = ("pending", "claimed", "done", "failed", "skipped")

extraction_tasks = sa.Table(
    "extraction_tasks",
    metadata,
    sa.Column("job_id", UUID(as_uuid=True), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("source_id", UUID(as_uuid=True), sa.ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    _seq(),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("claim", UUID(as_uuid=True)),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("record_state", sa.Text),  # null: no record is asked for
    sa.Column("record_claim", UUID(as_uuid=True)),
    sa.Column("record_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("record_reason", sa.Text),
    sa.CheckConstraint(f"state IN {TASK_STATES}", name="state"),
    sa.CheckConstraint(f"record_state IN {TASK_STATES}", name="record_state"),
    sa.Index(None, "source_id"),
    sa.Index(None, "job_id", "state", "seq"),
    sa.Index(
        "ix_extraction_tasks_records",
        "job_id",
        "record_state",
        "seq",
        postgresql_where=sa.text("record_state IS NOT NULL"),
    ),
)
"""Which sources a job extracts, and how far it is: the frontier of the extract lane and, under names of its own, of
the records lane."""

entity_tasks = sa.Table(
    "entity_tasks",
    metadata,
    sa.Column("job_id", UUID(as_uuid=True), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("source_id", UUID(as_uuid=True), sa.ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    _seq(),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("claim", UUID(as_uuid=True)),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_chunk", sa.Integer, nullable=False, server_default="0"),  # the entities before it are stored
    sa.CheckConstraint(f"state IN {TASK_STATES}", name="state"),
    sa.Index(None, "source_id"),
    sa.Index(None, "job_id", "state", "seq"),
)
"""Of which extracted sources a job finds the entities, and how far it is: the frontier of the entities lane."""

EXTRACTION_STATES: Final = ("pending", "ready")
WORDS_SQL: Final = (
    "to_tsvector('english'::regconfig,"
    " replace(replace((heading || ' '::text) || text, '<'::text, ' '::text), '>'::text, ' '::text))"
)
"""The stems of a chunk and of the headings that it stands under, without the most common words of English.

Without angle brackets, as what stands between two would be taken for a tag and left out: the text is Markdown, and
`Vec<String>` in it is code. By `replace`, which takes a tenth of the time of `translate`.
"""

extractions = sa.Table(
    "extractions",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    _ref("owner_job_id", "jobs.id"),
    _ref("source_id", "sources.id", cascade=True),
    sa.Column("chunk_number", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("heading", sa.Text, nullable=False, server_default=""),
    sa.Column("start", sa.Integer, nullable=False),  # characters into the source's text
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("collection", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("words", TSVECTOR, sa.Computed(WORDS_SQL, persisted=True), nullable=False),
    sa.CheckConstraint(f"state IN {EXTRACTION_STATES}", name="state"),
    sa.Index(None, "job_id", "seq"),
    sa.Index(None, "owner_job_id", "id"),
    sa.Index(None, "source_id"),
    # Of what may be found only, so that a chunk's words are put in once, when it becomes `ready`.
    sa.Index(
        "ix_extractions_words",
        "words",
        postgresql_using="gin",
        postgresql_where=sa.text("state = 'ready'"),
        postgresql_with={"gin_pending_list_limit": 1024},  # KB that a search reads through, at most
    ),
)
"""One chunk. Its id is its point's id in the vector store; `ready`: the point is there, and the text with it."""

entities = sa.Table(
    "entities",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    _ref("extraction_id", "extractions.id", cascade=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("start", sa.Integer, nullable=False),  # characters into the extraction's text
    sa.Column("end", sa.Integer, nullable=False),
    # Of the entity that it mentions: its project, its merge key, and its id, which is made of these and the label.
    sa.Column("project", sa.Text),
    sa.Column("key", sa.Text(collation="C")),  # ordered by code point: the same everywhere, and good for prefixes
    sa.Column("merged_id", UUID(as_uuid=True)),
    sa.Index(None, "job_id", "seq"),
    sa.Index(None, "extraction_id"),
    sa.Index(None, "merged_id"),
    sa.Index("ix_entities_merged", "project", "key", "label", "merged_id"),
    sa.Index("ix_entities_name", sa.text('"left"(lower(text), 64)')),
)
"""A mention of a named entity in a chunk. What mentions have in common is counted when it is read: a deletion of
sources takes what was merged with it, exactly, by the same cascade."""

records = sa.Table(
    "records",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    _ref("owner_job_id", "jobs.id"),
    _ref("source_id", "sources.id", cascade=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("data", JSON, nullable=False),  # valid against the job's schema, and in the order of the answer
    sa.Column("truncated", sa.Boolean, nullable=False),  # whether the model was given less than the whole source
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),  # of all calls for the source, on its first record
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Index(None, "job_id", "seq"),
    sa.Index(None, "owner_job_id"),
    sa.Index(None, "source_id"),
)
"""What a language model read out of a source. The id is made of job, source, schema and number."""

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    _id(),
    _seq(),
    _ref("job_id", "jobs.id"),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("subject_id", UUID(as_uuid=True), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("error_type", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_failed_at", TIME, nullable=False),
    sa.Column("last_failed_at", TIME, nullable=False),
    sa.CheckConstraint("subject IN ('page', 'source', 'record')", name="subject"),
    sa.Index(None, "job_id", "seq"),
    sa.Index(None, "subject_id"),
)
"""What failed for good: one letter for each page, source, or source of which no record could be made."""

retries = sa.Table(
    "retries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # retry-<job>-<number>
    _ref("job_id", "jobs.id"),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("selection", JSONB, nullable=False, server_default=EMPTY),
    sa.Column("letters", sa.Integer, nullable=False, server_default="0"),  # how many were taken up
    sa.Column("succeeded", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),  # and are dead letters again
    sa.Column("error", JSONB),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("completed_at", TIME),
    sa.CheckConstraint(_one_of("status", RetryStatus), name="status"),
    sa.Index(None, "job_id", "number", unique=True),
)
"""The retries of dead letters; `jobs.retry_id` names the one that is at work."""

cleanups = sa.Table(
    "cleanups",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # cleanup-<job>, cleanup-source-<source>, cleanup-project-<name>-<run>
    sa.Column("scope", sa.Text, nullable=False, server_default=CleanupScope.JOB.value),
    # No foreign keys: a receipt outlives what it is of. The job of a project's receipt is null.
    sa.Column("job_id", UUID(as_uuid=True)),
    sa.Column("source_id", UUID(as_uuid=True)),
    sa.Column("project", sa.Text),
    sa.Column("part_of", sa.Text),  # the project's receipt that this job's is a part of
    sa.Column("jobs", sa.Integer),  # of a project, once it is closed: how many it took up
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("planned", JSONB, nullable=False),
    sa.Column("deleted", JSONB, nullable=False, server_default=EMPTY),
    sa.Column("remaining", JSONB, nullable=False, server_default=EMPTY),
    sa.Column("delete_record", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("error", sa.Text),
    sa.Column("fenced", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run_id", sa.Text),  # the Temporal run that works on it: a new run raises the epoch, a retry does not
    sa.Column("started_at", TIME, nullable=False),
    sa.Column("completed_at", TIME),
    sa.CheckConstraint(_one_of("status", CleanupStatus), name="status"),
    sa.CheckConstraint(_one_of("scope", CleanupScope), name="scope"),
    sa.Index(None, "job_id"),
    sa.Index(None, "part_of", postgresql_where=sa.text("part_of IS NOT NULL")),
    sa.Index("ix_cleanups_running", "id", postgresql_where=sa.text("status <> 'cleaned'")),
)
"""The receipts."""

cleanup_batches = sa.Table(
    "cleanup_batches",
    metadata,
    sa.Column("cleanup_id", sa.Text, sa.ForeignKey("cleanups.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("collection", sa.Text),
    sa.Column("ids", ARRAY(UUID(as_uuid=True)), nullable=False, server_default=sa.text("'{}'::uuid[]")),
    sa.Column("counts", JSONB, nullable=False, server_default=EMPTY),  # store name: how many
    sa.Column("done", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_cleanup_batches_open", "store", postgresql_where=sa.text("NOT done")),
)
"""What a cleanup deletes, batch by batch: written before the delete, so that a crash cannot lose a number."""

reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # its workflow's id
    _seq(),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("repair", sa.Boolean, nullable=False),
    sa.Column("max_share", sa.Float, nullable=False),
    sa.Column("findings", JSONB, nullable=False, server_default=sa.text("'[]'::jsonb")),
    sa.Column("error", sa.Text),
    sa.Column("started_at", TIME, nullable=False),
    sa.Column("completed_at", TIME),
    sa.CheckConstraint(_one_of("status", ReconcileStatus), name="status"),
    sa.Index(None, "seq", unique=True),
)
"""What each reconciliation found, and what it repaired."""
