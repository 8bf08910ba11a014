"""The looks of a reconciliation at points and rows; `activities/settle.py` has those at workflows.

All of it runs beside jobs and cleanups at work. What keeps it from harm:

- A point is looked for before its row is, and rows are written before their points; so a point whose row is not there
  has none. It is deleted while nobody can write rows (`hold_orphans`).
- A row is looked at before its point is, and its state again after that: a cleanup says that it is one before it
  deletes its first point. A point is made anew under the epochs of that moment, so a cleanup that begins
  later fences it, or sweeps it.
- What an ended job never finished is deleted under the lock of the job's row, where retries and cleanups begin.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from activities.walking import Walk
from ke.contracts import activities as contract
from ke.contracts.errors import Fenced, InvalidInput, VectorStoreUnavailable
from ke.contracts.reconciling import (
    MAX_EXAMPLES,
    CloseReconciliation,
    Finding,
    FindingKind,
    OpenReconciliation,
    ReconcileStep,
    Reconciliation,
)
from ke.extraction.embed import find_embedder
from ke.extraction.pipeline import embed_chunks
from ke.runtime.pool import CpuPool
from ke.storage import reconcile_rows as rows
from ke.storage import reconciling
from ke.storage.database import WORKER_IDLE_TIMEOUT_S, Database
from ke.storage.reconcile_rows import LostRow, WalkedRow, WritableRow
from ke.storage.vectors.base import MAX_BATCH, Point, VectorStore

_PLACE = "/"
"""Between a collection and an id in a cursor; no collection's name has one."""
STORE_UNDER_LOCK_S: Final = 0.6 * WORKER_IDLE_TIMEOUT_S
"""Seconds that calls to the vector store may take while a transaction waits for them."""


class ReconcileActivities(contract.ReconcileActivities):
    """Points against rows, and the records."""

    def __init__(self, database: Database, vectors: VectorStore) -> None:
        self._database = database
        self._vectors = vectors

    @activity.defn(name="open_reconciliation")
    async def open_reconciliation(self, opened: OpenReconciliation) -> None:
        """Writes the record of a run that begins."""
        async with self._database.transaction() as connection:
            await reconciling.open_reconciliation(connection, opened)

    @activity.defn(name="close_reconciliation")
    async def close_reconciliation(self, close: CloseReconciliation) -> Reconciliation:
        """Writes what was found and repaired."""
        async with self._database.transaction() as connection:
            return await reconciling.close_reconciliation(connection, close)

    @activity.defn(name="compare_points")
    async def compare_points(self, step: ReconcileStep) -> list[Finding]:
        """Walks over all points and looks for those without a row; deletes them when it repairs."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.POINTS_WITHOUT_ROWS)
            done, _, last = (walk.cursor or "").partition(_PLACE)
            for collection in sorted(await self._vectors.collections()):
                if collection < done:
                    continue
                after = uuid.UUID(last) if collection == done else None
                while not beat.stopping and (
                    ids := await self._vectors.scroll_all(collection, limit=MAX_BATCH, after=after)
                ):
                    walk.add(await self._compare(collection, ids, repair=step.repair))
                    after = ids[-1]
                    walk.reach(f"{collection}{_PLACE}{after}")
            return walk.result

        return await run_with_heartbeat(body)

    async def _compare(self, collection: str, ids: Sequence[uuid.UUID], *, repair: bool) -> Finding:
        async with self._database.transaction() as connection:
            candidates = await rows.without_rows(connection, collection, ids)
        # A cleanup may have deleted point and row since the point was seen.
        there = await self._vectors.present(collection, candidates) if candidates else set()
        orphans = [point for point in candidates if point in there]
        repaired = await self._delete_orphans(collection, orphans) if orphans and repair else 0
        return Finding(
            FindingKind.POINTS_WITHOUT_ROWS,
            checked=len(ids),
            found=len(orphans),
            repaired=repaired,
            examples=_examples(orphans),
            at_stake=len(orphans),
        )

    async def _delete_orphans(self, collection: str, orphans: Sequence[uuid.UUID]) -> int:
        async with self._database.transaction() as connection:
            held = await rows.hold_orphans(connection, collection, orphans)
            async with _while_locked():
                await self._delete(collection, held)
        return len(held)

    async def _delete(self, collection: str, ids: Sequence[uuid.UUID]) -> None:
        """Deletes points and makes sure of it.

        Raises:
            VectorStoreUnavailable: The store did not answer, or has points that it was told to delete.
        """
        if not ids:
            return
        await self._vectors.delete(collection, ids)
        left = await self._vectors.present(collection, ids)
        if left:
            raise VectorStoreUnavailable(f"{len(left)} points are still in {collection} after they were deleted.")

    @activity.defn(name="compare_rows")
    async def compare_rows(self, step: ReconcileStep) -> list[Finding]:  # noqa: ARG002  repairs are other steps
        """Walks over all extractions and looks for those without a point, and for those never finished."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.ROWS_WITHOUT_POINTS, FindingKind.PENDING_ROWS)
            while not beat.stopping and (window := await _next_window(self._database, walk)):
                lost = await find_lost(self._database, self._vectors, window)
                ready = sum(row.is_ready and row.is_kept for row in window)
                walk.add(
                    Finding(
                        FindingKind.ROWS_WITHOUT_POINTS,
                        checked=ready,
                        found=len(lost),
                        examples=_examples([row.id for row in lost]),
                    )
                )
                walk.add(_pending(window))
                walk.reach(str(window[-1].id))
            return walk.result

        return await run_with_heartbeat(body)

    @activity.defn(name="delete_pending_rows")
    async def delete_pending_rows(self, step: ReconcileStep) -> list[Finding]:  # noqa: ARG002  it only repairs
        """Deletes the extractions that ended jobs never finished, their points first."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.PENDING_ROWS)
            present = set(await self._vectors.collections())
            while not beat.stopping and (window := await _next_window(self._database, walk)):
                walk.add(_pending(window))
                by_job: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
                for row in window:
                    if row.is_abandoned and row.is_kept:
                        by_job[row.job_id].append(row.id)
                for job_id, ids in by_job.items():
                    deleted = await self._delete_pending(job_id, ids, present)
                    walk.add(Finding(FindingKind.PENDING_ROWS, repaired=deleted))
                    beat.progress()
                walk.reach(str(window[-1].id))
            return walk.result

        return await run_with_heartbeat(body)

    async def _delete_pending(self, job_id: uuid.UUID, ids: Sequence[uuid.UUID], present: set[str]) -> int:
        """Points first, as in a cleanup: a crash in between leaves rows, by which the rest is found.

        A worker that froze before the job ended could still write such a point; then it has no row, and goes next time.
        """
        async with self._database.transaction() as connection:
            held = await rows.hold_abandoned(connection, job_id, ids)
            async with _while_locked():
                for collection in {row.collection for row in held} & present:
                    await self._delete(collection, [row.id for row in held if row.collection == collection])
            await rows.delete_abandoned(connection, job_id, held)
        return len(held)


class RestoreActivities(contract.RestoreActivities):
    """What is lost of the vector store, made anew from Postgres."""

    def __init__(self, database: Database, vectors: VectorStore, pool: CpuPool) -> None:
        self._database = database
        self._vectors = vectors
        self._pool = pool

    @activity.defn(name="restore_points")
    async def restore_points(self, step: ReconcileStep) -> list[Finding]:  # noqa: ARG002  it only repairs
        """Makes the points of extractions that lost them anew, from the texts that are stored."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.ROWS_WITHOUT_POINTS)
            while not beat.stopping and (window := await _next_window(self._database, walk)):
                lost = await find_lost(self._database, self._vectors, window)
                for first in range(0, len(lost), RESTORED_AT_ONCE):
                    walk.add(await self._restore(lost[first : first + RESTORED_AT_ONCE], beat))
                    beat.progress()
                walk.reach(str(window[-1].id))
            return walk.result

        return await run_with_heartbeat(body)

    async def _restore(self, lost: Sequence[LostRow], beat: Beat) -> Finding:
        found = Finding(FindingKind.ROWS_WITHOUT_POINTS, found=len(lost), examples=_examples([row.id for row in lost]))
        for embedder, collection in {(row.embedder, row.collection) for row in lost}:
            these = [row for row in lost if (row.embedder, row.collection) == (embedder, collection)]
            found += await self._restore_alike(embedder, collection, these, beat)
        return found

    async def _restore_alike(self, embedder: str, collection: str, lost: Sequence[LostRow], beat: Beat) -> Finding:
        """Extractions of one embedder: their texts embedded, and written under the epochs of that moment."""
        kind = FindingKind.ROWS_WITHOUT_POINTS
        try:
            known = find_embedder(embedder)
        except InvalidInput as error:
            return Finding(kind, note=error.message)
        if known.collection != collection:
            return Finding(kind, note=f"{embedder} does not write into {collection} any more.")
        await self._vectors.ensure_collection(collection, known.dimensions)
        vectors = dict(
            zip(
                (row.id for row in lost),
                await embed_chunks(self._pool, embedder, [row.text for row in lost]),
                strict=True,
            )
        )
        beat.progress()
        async with self._database.transaction() as connection:
            may = await rows.writable(connection, list(vectors))
        points = [(row, Point(row.id, vectors[row.id], row.job_id, row.owner_job_id, row.source_id)) for row in may]
        return Finding(kind, repaired=await self._write(collection, points))

    async def _write(self, collection: str, points: Sequence[tuple[WritableRow, Point]]) -> int:
        """Writes points; those of a job that is cleaned up since the rows were read are refused, and not counted."""
        if not points:
            return 0
        epochs = {row.job_id: row.job_epoch for row, _ in points} | {
            row.owner_job_id: row.owner_epoch for row, _ in points
        }
        try:
            await self._vectors.upsert(collection, [point for _, point in points], epochs=epochs)
        except Fenced:
            pairs = {(row.job_id, row.owner_job_id) for row, _ in points}
            if len(pairs) == 1:
                return 0
            return sum(
                [
                    await self._write(collection, [p for p in points if (p[0].job_id, p[0].owner_job_id) == pair])
                    for pair in pairs
                ]
            )
        return len(points)


RESTORED_AT_ONCE = 256
"""Extractions that are embedded and written together."""


async def find_lost(database: Database, vectors: VectorStore, window: Sequence[WalkedRow]) -> list[LostRow]:
    """Those rows of a window whose point is missing and that nobody cleans up."""
    present = set(await vectors.collections())
    missing: list[uuid.UUID] = []
    ready = [row for row in window if row.is_ready and row.is_kept]
    for collection in {row.collection for row in ready}:
        ids = [row.id for row in ready if row.collection == collection]
        there = await vectors.present(collection, ids) if collection in present else set()
        missing += [point for point in ids if point not in there]
    if not missing:
        return []
    async with database.transaction() as connection:
        return await rows.still_lost(connection, missing)


@asynccontextmanager
async def _while_locked() -> AsyncIterator[None]:
    """Calls to the vector store under locks that a transaction holds.

    Postgres ends a worker's transaction that does nothing for `WORKER_IDLE_TIMEOUT_S`, and its locks with it. A store
    that is slower than that would go on being told to delete, when whoever waited for a lock may have written the same
    point again; so it is given up well before, and the step is tried again.

    Raises:
        VectorStoreUnavailable: The store was too slow.
    """
    try:
        async with asyncio.timeout(STORE_UNDER_LOCK_S):
            yield
    except TimeoutError as error:
        raise VectorStoreUnavailable(
            f"The vector store took more than {STORE_UNDER_LOCK_S:g} s to delete points that are held for it."
        ) from error


async def _next_window(database: Database, walk: Walk) -> list[WalkedRow]:
    async with database.transaction() as connection:
        return await rows.walk(connection, uuid.UUID(walk.cursor) if walk.cursor else None)


def _pending(window: Sequence[WalkedRow]) -> Finding:
    abandoned = [row.id for row in window if row.is_abandoned and row.is_kept]
    return Finding(
        FindingKind.PENDING_ROWS,
        checked=len(window),
        found=len(abandoned),
        examples=_examples(abandoned),
        at_stake=len(abandoned),
    )


def _examples(ids: Sequence[uuid.UUID]) -> tuple[str, ...]:
    return tuple(str(key) for key in ids[:MAX_EXAMPLES])
