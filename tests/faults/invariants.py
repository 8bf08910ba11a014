"""What must be true whatever was broken, looked at from outside.

By SQL, by a client of the vector process and one of Temporal, by the site's own log, and by the table of processes;
nothing here asks the code that is under test.

Each broken invariant is one line, `name: what, and the ids`.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psutil
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from tests.faults.ledger import Ledger, Watched
from tests.faults.site import Pages
from tests.faults.stack import FaultStack

CANCEL_LIMIT_S: Final = 2.0
"""No live worker starts a fetch later than this after a cancel was accepted."""
CLOCK_S: Final = 0.5
"""By how much the site may be late in writing a request down."""
LOOKS: Final = 15
"""A broken invariant must be so in each of these looks: what is under way is not what stays."""
LOOK_EVERY_S: Final = 0.6
TASK_ATTEMPTS: Final = 5
"""A workflow task that has failed so often in a row fails in a loop."""
PAGE: Final = 1000
WARM_S: Final = 45.0
"""From this age on a process is held to what it used then."""
GROWTH_MB: Final = 150.0
HANDLES: Final = 60
TERMINAL: Final = ("cancelled", "completed", "completed_with_errors", "failed")
_TERMINAL_SQL: Final = "('cancelled', 'completed', 'completed_with_errors', 'failed')"


@dataclass
class Usage:
    """What a process used when it was warm."""

    role: str
    rss_mb: float
    handles: int


@dataclass
class Invariants:
    """The invariants of one run; remembers which ended jobs it has gone through, and how large processes were."""

    stack: FaultStack
    ledger: Ledger
    grown: dict[str, float] = field(default_factory=dict)
    """The largest growth of a process of each role so far, MB."""
    _done: set[str] = field(default_factory=set)
    _usage: dict[tuple[int, float], Usage] = field(default_factory=dict)

    async def after_fault(self) -> list[str]:
        """All invariants that hold at any time, once the stack is whole again; the broken ones."""
        return await self._look(
            self.accepted,
            self.points,
            self.cleaned,
            self.duplicates,
            self.ended_jobs,
            self.fetches,
            self.workflows,
            self.processes,
        )

    async def at_end(self) -> list[str]:
        """All of them, over all jobs, when all have ended."""
        self._done.clear()
        return [*await self.after_fault(), *await self._look(self.all_ended, self.nothing_pending, self.failed_tasks)]

    async def _look(self, *checks: Callable[[], Awaitable[list[str]]]) -> list[str]:
        broken: list[str] = []
        for check in checks:
            lines = await check()
            for _ in range(LOOKS - 1):
                if not lines:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
                again = set(await check())
                lines = [line for line in lines if line in again]
            broken += lines
        return broken

    # Jobs

    async def accepted(self) -> list[str]:
        """A job that was answered with 202 is there; its record goes only when that was asked for."""
        rows = await self.stack.sql("SELECT id, deleted_at FROM jobs")
        there = {str(row["id"]): row["deleted_at"] for row in rows}
        lines = [
            f"accepted-is-durable: job {job} is not in the database" for job in self.ledger.jobs if job not in there
        ]
        lines += [
            f"accepted-is-durable: the record of job {job.id} was deleted and nobody asked for it"
            for job in self.ledger.jobs.values()
            if there.get(job.id) is not None and not job.deleted
        ]
        return lines

    async def all_ended(self) -> list[str]:
        """At the end nothing is open."""
        rows = await self.stack.sql(
            f"SELECT id, status, artifacts FROM jobs WHERE status NOT IN {_TERMINAL_SQL} OR artifacts = 'cleaning'"
        )
        return [f"jobs-end: job {row['id']} is {row['status']}, its artifacts {row['artifacts']}" for row in rows]

    async def ended_jobs(self) -> list[str]:
        """The result of an ended job counts its rows exactly; nothing in it is still open; completed is complete."""
        rows = await self.stack.sql(_ENDED)
        lines: list[str] = []
        for row in rows:
            job_id = f"{row['id']} {row['retries']}"
            if job_id in self._done:
                continue
            found = [*_counters(row), *_open_rows(row), *self._complete(row)]
            if not found:
                self._done.add(job_id)
            lines += found
        return lines

    def _complete(self, row: Any) -> Iterable[str]:
        job = self.ledger.jobs.get(str(row["id"]))
        if job is None:
            return
        if row["status"] == "failed":
            yield f"no-job-fails: job {job.id} ended as failed: {row['error']}"
        if not str(row["status"]).startswith("completed") or job.pages is None:
            return
        if job.retried:
            yield from _retried(row, job.pages)
            return
        broken = int(job.kind == "crawl")
        want = {
            "pages_fetched": job.pages.number,
            "pages_failed": broken,
            "pages_duplicate": 0,
            "sources": job.pages.number,
        }
        if job.extracts:
            want["sources_extracted"] = job.pages.number
        for name, number in want.items():
            if row[name] != number:
                yield f"nothing-lost: {job.kind} {job.id} completed with {name} {row[name]} and not {number}"

    # Stores

    async def points(self) -> list[str]:
        """Every point has its row, and every row that is ready has its point, where nothing is being cleaned."""
        lines: list[str] = []
        for collection in await self.stack.vectors.collections():
            points = await self._scroll(collection)
            rows = {row["id"]: row for row in await self.stack.sql(_EXTRACTIONS, collection)}
            lines += [f"points-have-rows: point {point} of {collection} has no row" for point in points - rows.keys()]
            ready = {key for key, row in rows.items() if row["ready"]}
            lines += [
                f"rows-have-points: extraction {key} of job {rows[key]['job_id']} is ready and has no point"
                for key in ready - points
            ]
        return _few(lines)

    async def _scroll(self, collection: str) -> set[uuid.UUID]:
        found: set[uuid.UUID] = set()
        after: uuid.UUID | None = None
        while True:
            ids = await self.stack.vectors.scroll_all(collection, limit=PAGE, after=after)
            found.update(ids)
            if len(ids) < PAGE:
                return found
            after = ids[-1]

    async def cleaned(self) -> list[str]:
        """A cleaned job has nothing left in any store, and its receipt says what was really deleted."""
        rows = await self.stack.sql("SELECT * FROM cleanups WHERE scope = 'job' AND status = 'cleaned'")
        ids = [row["job_id"] for row in rows]
        lines: list[str] = []
        for table, column in _OWNED:
            left = await self.stack.sql(
                f"SELECT {column} AS job, count(*) AS number FROM {table} WHERE {column} = ANY($1) GROUP BY 1", ids
            )
            lines += [f"cleaned-is-zero: job {row['job']} has {row['number']} rows in {table}" for row in left]
        for row in rows:
            lines += self._receipt(row)
        for collection in await self.stack.vectors.collections():
            for job_id in ids[-20:]:
                if await self.stack.vectors.count_job(collection, job_id):
                    lines.append(f"cleaned-is-zero: job {job_id} has points in {collection}")
        return _few(lines)

    def _receipt(self, row: Any) -> Iterable[str]:
        remaining, deleted = json.loads(row["remaining"]), json.loads(row["deleted"])
        left = {name: number for name, number in remaining.items() if number}
        if left:
            yield f"receipt-is-exact: {row['id']} is cleaned and says that {left} remain"
        job = self.ledger.jobs.get(str(row["job_id"]))
        for name, number in (job.counted if job else {}).items():
            if deleted.get(name, 0) != number:
                yield f"receipt-is-exact: {row['id']} says {deleted.get(name, 0)} {name} deleted; there were {number}"

    async def duplicates(self) -> list[str]:
        """No address and no content twice in a job, and no page that is a duplicate of itself."""
        lines: list[str] = []
        for what, query in _DUPLICATES.items():
            rows = await self.stack.sql(query)
            lines += [f"stored-once: {what} twice in job {row['job_id']}: {row['what']}" for row in rows]
        return _few(lines)

    async def nothing_pending(self) -> list[str]:
        """After a reconciliation no extraction of an ended job is left half made."""
        rows = await self.stack.sql(
            f"SELECT e.id, e.job_id FROM extractions e JOIN jobs j ON j.id = e.job_id"
            f" WHERE e.state = 'pending' AND j.status IN {_TERMINAL_SQL} LIMIT 20"
        )
        return [f"nothing-half-made: extraction {row['id']} of ended job {row['job_id']} is pending" for row in rows]

    # The site

    async def fetches(self) -> list[str]:
        """No fetch 2 s after an accepted cancel while all was whole; and none at all once the job stood still."""
        rows = await self.stack.sql("SELECT id, result->'cancellation'->>'quiescent_at' AS at FROM jobs")
        still = {str(row["id"]): datetime.fromisoformat(row["at"]).timestamp() for row in rows if row["at"]}
        last: dict[str, float] = {fetch.mark: fetch.at for fetch in self.stack.site.log}
        lines: list[str] = []
        for job in self.ledger.jobs.values():
            at = last.get(job.mark)
            if at is None:
                continue
            if job.id in still and at > still[job.id] + CLOCK_S:
                lines.append(
                    f"quiescent-is-still: job {job.id} fetched {at - still[job.id]:.2f} s after it stood still"
                )
            elif self._late(job, at):
                lines.append(f"cancel-is-prompt: job {job.id} fetched later than {CANCEL_LIMIT_S:g} s after its cancel")
        return lines

    def _late(self, job: Watched, at: float) -> bool:
        began = job.cancelled_at
        return began is not None and at > began + CANCEL_LIMIT_S and not self.ledger.was_disturbed(began, at)

    # Temporal

    async def workflows(self) -> list[str]:
        """No workflow task fails in a loop; no workflow is open whose job has ended."""
        client = await self.stack.temporal()
        rows = await self.stack.sql("SELECT id, status, deleted_at FROM jobs ORDER BY seq DESC LIMIT 40")
        lines: list[str] = []
        for row in rows:
            handle = client.get_workflow_handle(f"job-{row['id']}")
            try:
                seen = await handle.describe()
            except RPCError as error:
                # Erased with its record, or never started: `accepted` knows which jobs there must be.
                if error.status is RPCStatusCode.NOT_FOUND:
                    continue
                raise
            if seen.raw_description.pending_workflow_task.attempt >= TASK_ATTEMPTS:
                lines.append(f"no-failing-loop: a workflow task of job-{row['id']} fails again and again")
            if row["status"] in TERMINAL and seen.status is WorkflowExecutionStatus.RUNNING:
                lines.append(f"ended-is-closed: job {row['id']} has ended and its workflow is open")
        return lines

    async def failed_tasks(self) -> list[str]:
        """No workflow has failed tasks in its history one after the other; time-outs of a dead worker are none."""
        client = await self.stack.temporal()
        lines: list[str] = []
        for job_id in [job.id for job in self.ledger.jobs.values() if not job.deleted][-40:]:
            failed = 0
            try:
                async for event in client.get_workflow_handle(f"job-{job_id}").fetch_history_events():
                    failed += event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
            if failed >= TASK_ATTEMPTS:
                lines.append(f"no-failing-loop: {failed} workflow tasks of job-{job_id} have failed")
        return lines

    # Processes

    async def processes(self) -> list[str]:
        """Nothing runs that nobody looks after, and no process grows."""
        lines = [f"no-stray-process: {_name(process)}" for process in self.stack.strays()]
        for role, found in self.stack.processes().items():
            for process in found:
                lines += self._grown(role, process)
        return lines

    def _grown(self, role: str, process: psutil.Process) -> Iterable[str]:
        try:
            with process.oneshot():
                age = datetime.now().astimezone().timestamp() - process.create_time()
                now = Usage(role, process.memory_info().rss / 2**20, process.num_fds())
        except psutil.Error:
            return
        if age < WARM_S:
            return
        then = self._usage.setdefault((process.pid, process.create_time()), now)
        self.grown[role] = max(self.grown.get(role, 0.0), now.rss_mb - then.rss_mb)
        if now.rss_mb - then.rss_mb > GROWTH_MB:
            yield f"no-growth: {role} (pid {process.pid}) has grown by more than {GROWTH_MB:g} MB"
        if now.handles - then.handles > HANDLES:
            yield f"no-growth: {role} (pid {process.pid}) has more than {HANDLES} new file handles"


_OWNED: Final = (
    ("pages", "job_id"),
    ("sources", "job_id"),
    ("extractions", "job_id"),
    ("extractions", "owner_job_id"),
    ("entities", "job_id"),
    ("extraction_tasks", "job_id"),
    ("entity_tasks", "job_id"),
    ("dead_letters", "job_id"),
    ("records", "job_id"),
    ("records", "owner_job_id"),
)

_ROWS: Final = {
    "pages_fetched": "pages x WHERE x.job_id = j.id AND state = 'fetched'",
    "pages_failed": "pages x WHERE x.job_id = j.id AND state = 'failed'",
    "pages_skipped": "pages x WHERE x.job_id = j.id AND state = 'skipped'",
    "pages_duplicate": "pages x WHERE x.job_id = j.id AND state = 'duplicate'",
    "pages_unchanged": "pages x WHERE x.job_id = j.id AND state = 'unchanged'",
    "pages_gone": "pages x WHERE x.job_id = j.id AND state = 'gone'",
    "sources": "sources x WHERE x.job_id = j.id",
    "sources_extracted": "extraction_tasks x WHERE x.job_id = j.id AND state = 'done'",
    "sources_skipped": "extraction_tasks x WHERE x.job_id = j.id AND state = 'skipped'",
    "extractions": "extractions x WHERE x.job_id = j.id",
    "entities": "entities x WHERE x.job_id = j.id",
    "entity_sources": "entity_tasks x WHERE x.job_id = j.id AND state = 'done'",
    "entity_sources_skipped": "entity_tasks x WHERE x.job_id = j.id AND state = 'skipped'",
    "vectors": "extractions x WHERE x.job_id = j.id AND state = 'ready'",
    "dead_letters": "dead_letters x WHERE x.job_id = j.id",
    "records": "records x WHERE x.job_id = j.id",
    "records_skipped": "extraction_tasks x WHERE x.job_id = j.id AND record_state = 'skipped'",
}
_PROGRESS: Final = (
    "pages_fetched",
    "pages_failed",
    "pages_duplicate",
    "sources",
    "sources_extracted",
    "entity_sources",
    "vectors",
)
_OPEN_ROWS: Final = {
    "open_pages": "pages x WHERE x.job_id = j.id AND state IN ('pending', 'fetching')",
    "open_tasks": "extraction_tasks x WHERE x.job_id = j.id AND state IN ('pending', 'claimed')",
    "open_entity_tasks": "entity_tasks x WHERE x.job_id = j.id AND state IN ('pending', 'claimed')",
    "open_records": "extraction_tasks x WHERE x.job_id = j.id AND record_state IN ('pending', 'claimed')",
}
_ENDED: Final = (
    "SELECT j.id, j.retries, (SELECT r.status FROM retries r WHERE r.job_id = j.id AND r.number = j.retries) AS"
    " retry_status, j.status, j.result, j.error, j.kind, "
    + ", ".join(f"(SELECT count(*) FROM {rows}) AS {name}" for name, rows in {**_ROWS, **_OPEN_ROWS}.items())
    + ", "
    + ", ".join(
        f"(SELECT coalesce(sum({name}), 0) FROM job_progress x WHERE x.job_id = j.id) AS progress_{name}"
        for name in _PROGRESS
    )
    + f" FROM jobs j WHERE status IN {_TERMINAL_SQL} AND artifacts = 'present' AND deleted_at IS NULL"
    # Its extraction may have been cleaned away with the sources of another job.
    " AND retry_id IS NULL AND (kind <> 'extract' OR EXISTS (SELECT FROM extraction_tasks x WHERE x.job_id = j.id))"
)
_EXTRACTIONS: Final = (
    "SELECT e.id, e.job_id, e.state = 'ready' AND j.artifacts = 'present' AND o.artifacts = 'present' AS ready"
    " FROM extractions e JOIN jobs j ON j.id = e.job_id JOIN jobs o ON o.id = e.owner_job_id WHERE e.collection = $1"
)
_DUPLICATES: Final = {
    "a page": "SELECT job_id, url AS what FROM pages GROUP BY 1, 2 HAVING count(*) > 1",
    "a source": "SELECT job_id, url AS what FROM sources GROUP BY 1, 2 HAVING count(*) > 1",
    "content": "SELECT job_id, content_hash::text AS what FROM sources GROUP BY 1, 2 HAVING count(*) > 1",
    "a chunk": "SELECT job_id, source_id::text || ' ' || chunk_number AS what FROM extractions"
    " GROUP BY job_id, source_id, chunk_number HAVING count(*) > 1",
    "a dead letter": "SELECT job_id, url AS what FROM dead_letters GROUP BY job_id, subject, url HAVING count(*) > 1",
}


def _retried(row: Any, pages: Pages) -> Iterable[str]:
    """A retry that came to its end has fetched the mended page and all behind it; one that was stopped, some."""
    least, most = pages.number, pages.number + 1 + pages.behind
    if row["retry_status"] == "completed":
        least = most
    if not least <= row["pages_fetched"] <= most:
        yield f"nothing-lost: {row['id']} was retried with pages_fetched {row['pages_fetched']} and not {most}"


def _counters(row: Any) -> Iterable[str]:
    result = json.loads(row["result"])
    for name in _ROWS:
        if result[name] != row[name]:
            yield f"counters-are-exact: the result of job {row['id']} says {name} {result[name]}; there are {row[name]}"
    for name in _PROGRESS:
        if row[f"progress_{name}"] != row[name]:
            counted = row[f"progress_{name}"]
            yield f"counted-once: the progress of job {row['id']} counts {name} {counted}; there are {row[name]}"


def _open_rows(row: Any) -> Iterable[str]:
    for name in _OPEN_ROWS:
        if row[name]:
            yield f"ended-is-settled: job {row['id']} has ended with {row[name]} {name.replace('_', ' ')}"


def _few(lines: Sequence[str], most: int = 12) -> list[str]:
    """Not a thousand lines for one thing."""
    return list(lines[:most])


def _name(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid}, {' '.join(process.cmdline())[:120]}"
    except psutil.Error:
        return f"pid {process.pid}"
