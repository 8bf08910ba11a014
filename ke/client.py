"""The gateway's API from Python: typed, async, every failure a specific error.

    ClientError
    ├── RequestRefused          it cannot be sent as it is: not Unicode, not a number, not a header
    ├── GatewayUnreachable      no connection, it broke, or no answer in time
    └── ApiError                the gateway refused: its problem document, untouched

    async with KnowledgeExtractionClient("http://127.0.0.1:8080") as ke:
        job = await ke.submit_crawl(["https://example.com/"], extract={})
        job = await ke.get_job(job["id"], wait_s=30)

Answers are plain dictionaries; `ke.client_types` gives their types.
"""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ke.client_entities import EntityCalls
from ke.client_http import ApiError, ClientError, GatewayUnreachable, RequestRefused, each, segment
from ke.client_letters import DeadLetterCalls
from ke.client_sources import SourceCalls
from ke.client_types import (
    NOT_GIVEN,
    Extract,
    Job,
    Page,
    PageItem,
    Project,
    Receipt,
    Reconciliation,
    Record,
    SearchHit,
    SearchResult,
    SourceItem,
)

__all__ = ["ApiError", "ClientError", "GatewayUnreachable", "KnowledgeExtractionClient", "RequestRefused"]

MAX_WAIT_S: Final = 60
"""The longest a call may wait in the gateway, in seconds."""


class KnowledgeExtractionClient(DeadLetterCalls, EntityCalls, SourceCalls):
    """A client of one gateway; use it as an async context manager.

    Every method raises `ApiError` when the gateway refuses, `GatewayUnreachable` when it does not answer, and
    `RequestRefused` when an argument is nothing that can be sent.
    """

    # Submit

    async def submit_scrape(
        self,
        urls: Sequence[str] | None = None,
        *,
        reading: str | None = None,
        extract: Extract = NOT_GIVEN,
        recrawl_of: str | None = None,
        forget_replaced: bool = False,
        max_gone_share: float | None = None,
        browser: bool | None = None,
        project: str | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Fetches a list of URLs.

        What is not given has the gateway's default; with `recrawl_of` it is as that job had it, `labels`,
        `forget_replaced` and `max_gone_share` aside.

        Args:
            urls: At most 1,000; may be left out where `recrawl_of` is a scrape too.
            reading: How a page's content is found: `thorough` (the default) or `fast`.
            extract: What to extract from the pages; `{}`: with all defaults; None, the default: nothing.
            recrawl_of: A job that has ended: what is as it was then is neither stored nor extracted again.
            forget_replaced: With `recrawl_of`: once the job has ended well, delete the earlier documents of pages that
                have changed or are gone, also of those that an earlier re-crawl of the chain had found so.
            max_gone_share: With `forget_replaced`: how much of what is found, there or gone, may be gone for its
                documents to be deleted; 0.5 by default, 1 for whatever is gone, 0 for nothing that is.
            browser: Whether HTML pages are shown by the worker's Chromium and read as their scripts have made them.
            project: What the job belongs to; `default` by default.
            labels: At most 32 names and values of the caller's.
            idempotency_key: Names the job: the same key gives the same job. None: one is made, so that a repeat
                inside this call is safe.
        """
        given = {"urls": list(urls) if urls is not None else None, "reading": reading, "browser": browser}
        again = {
            "recrawl_of": recrawl_of,
            "forget_replaced": forget_replaced or None,
            "max_gone_share": max_gone_share,
        }
        body = {"kind": "scrape", **_given(given | again), **_extract(extract)}
        return await self._submit(body, project, labels, idempotency_key)

    async def submit_crawl(
        self,
        seeds: Sequence[str] | None = None,
        *,
        limits: Mapping[str, Any] | None = None,
        scope: Mapping[str, Any] | None = None,
        rate: Mapping[str, Any] | None = None,
        reading: str | None = None,
        extract: Extract = NOT_GIVEN,
        recrawl_of: str | None = None,
        forget_replaced: bool = False,
        max_gone_share: float | None = None,
        browser: bool | None = None,
        project: str | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Fetches a site from its seeds and sitemaps, within limits. What is not given is as in `submit_scrape`.

        Args:
            seeds: Where to begin; at most 1,000; may be left out where `recrawl_of` is a crawl too.
            limits: `max_pages`, `max_depth`, `max_bytes`, `max_seconds`.
            scope: `include`, `exclude`, `same_host`, `sitemaps`, `robots`, `drop_params`.
            rate: `concurrency`, `delay_s`.
            reading: As in `submit_scrape`.
            extract: As in `submit_scrape`.
            recrawl_of: As in `submit_scrape`.
            forget_replaced: As in `submit_scrape`.
            max_gone_share: As in `submit_scrape`.
            browser: As in `submit_scrape`.
            project: As in `submit_scrape`.
            labels: As in `submit_scrape`.
            idempotency_key: As in `submit_scrape`.
        """
        groups = {name: dict(v) for name, v in (("limits", limits), ("scope", scope), ("rate", rate)) if v is not None}
        given = {"seeds": list(seeds) if seeds is not None else None, "reading": reading, "browser": browser}
        again = {
            "recrawl_of": recrawl_of,
            "forget_replaced": forget_replaced or None,
            "max_gone_share": max_gone_share,
        }
        body = {"kind": "crawl", **_given(given | again), **groups, **_extract(extract)}
        return await self._submit(body, project, labels, idempotency_key)

    async def submit_extract(
        self,
        *,
        source_job_id: str | None = None,
        source_ids: Sequence[str] | None = None,
        project: str | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Job:
        """Turns stored sources into chunks, vectors and entities.

        Args:
            source_job_id: Extract the sources that this job stored; or
            source_ids: exactly these, at most 1,000.
            project: What the job belongs to; that of the job which stored the sources by default. Where several
                projects have stored them it must be given.
            labels: As in `submit_scrape`.
            idempotency_key: As in `submit_scrape`.
            options: `chunk_size`, `chunk_tokens`, `embedder`, `entities`, `schema`, `instructions`, `model`,
                `max_tokens`.
        """
        body: dict[str, Any] = {"kind": "extract", **options}
        if source_job_id is not None:
            body["source_job_id"] = source_job_id
        if source_ids is not None:
            body["source_ids"] = list(source_ids)
        return await self._submit(body, project, labels, idempotency_key)

    async def _submit(
        self, body: dict[str, Any], project: str | None, labels: Mapping[str, str] | None, key: str | None
    ) -> Job:
        body |= {"labels": dict(labels or {}), **_given({"project": project})}
        if key and not (key.isascii() and key.isprintable()):
            raise RequestRefused("An idempotency key is printable ASCII: it is sent as a header.")
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        job: Job = await self._call("POST", "/jobs", json=body, headers=headers, repeatable=True)
        return job

    # Read

    async def get_job(self, job_id: str, *, wait_s: float = 0) -> Job:
        """The job; with `wait_s` as soon as it has ended, or after so many seconds (at most 60) as it is then."""
        params = {"wait": f"{wait_s:g}"} if wait_s else None
        job: Job = await self._call("GET", f"/jobs/{segment(job_id)}", params=params, wait_s=wait_s)
        return job

    async def list_jobs(
        self,
        *,
        kind: str | None = None,
        status: str | Sequence[str] | None = None,
        project: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """Jobs, newest first."""
        params = {
            "kind": kind,
            "status": status,
            "project": project,
            "created_after": created_after.isoformat() if created_after else None,
            "created_before": created_before.isoformat() if created_before else None,
            "limit": limit,
            "cursor": cursor,
        }
        page: Page[Job] = await self._call("GET", "/jobs", params=params)
        return page

    async def list_projects(self, *, limit: int = 50, cursor: str | None = None) -> Page[Project]:
        """The projects of which something is left, in the order of their first jobs."""
        page: Page[Project] = await self._list("/projects", limit, cursor)
        return page

    async def list_sources(
        self,
        job_id: str,
        *,
        state: str | None = None,
        url: str | None = None,
        url_prefix: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[SourceItem]:
        """The sources a job stored, or worked on.

        With `state` those that its extraction left in that state, with `url` that with exactly this one, in any
        spelling, or with `url_prefix` those whose URL begins so.
        """
        filters = {"state": state, "url": url, "url_prefix": url_prefix}
        page: Page[SourceItem] = await self._list(f"/jobs/{segment(job_id)}/sources", limit, cursor, **filters)
        return page

    async def list_pages(
        self,
        job_id: str,
        *,
        state: str | None = None,
        url: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[PageItem]:
        """The URLs a job has seen, and what became of each; with `state` those in that state.

        With `url`, in any spelling, that page alone: its `source_id` is the document that it has, also where that is
        another page's (a duplicate) or an earlier job's.

        Of a re-crawl `changed` gives those that have other content than in the earlier job, with that document in
        `previous_source_id`, and `new` those that were not there; of any other job these two are refused.
        """
        page: Page[PageItem] = await self._list(f"/jobs/{segment(job_id)}/pages", limit, cursor, state=state, url=url)
        return page

    async def list_extractions(
        self, job_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[dict[str, Any]]:
        """The chunks a job made."""
        page: Page[dict[str, Any]] = await self._list(f"/jobs/{segment(job_id)}/extractions", limit, cursor)
        return page

    async def list_entities(self, job_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[dict[str, Any]]:
        """The named entities a job found."""
        page: Page[dict[str, Any]] = await self._list(f"/jobs/{segment(job_id)}/entities", limit, cursor)
        return page

    async def list_records(self, job_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Record]:
        """What a language model read out of a job's sources, by the job's schema."""
        page: Page[Record] = await self._list(f"/jobs/{segment(job_id)}/records", limit, cursor)
        return page

    async def iterate_jobs(self, **filters: Any) -> AsyncIterator[Job]:
        """All jobs that `list_jobs` would list, page by page."""
        async for job in each(lambda cursor: self.list_jobs(**filters, limit=200, cursor=cursor)):
            yield job

    async def iterate_sources(self, job_id: str, *, state: str | None = None) -> AsyncIterator[SourceItem]:
        """All sources that `list_sources` would list, page by page."""
        async for item in each(lambda cursor: self.list_sources(job_id, state=state, limit=200, cursor=cursor)):
            yield item

    async def iterate_pages(self, job_id: str, *, state: str | None = None) -> AsyncIterator[PageItem]:
        """All pages that `list_pages` would list, page by page."""
        async for item in each(lambda cursor: self.list_pages(job_id, state=state, limit=200, cursor=cursor)):
            yield item

    async def iterate_extractions(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """All chunks of a job, page by page."""
        async for item in each(lambda cursor: self.list_extractions(job_id, limit=200, cursor=cursor)):
            yield item

    async def iterate_entities(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """All entities of a job, page by page."""
        async for item in each(lambda cursor: self.list_entities(job_id, limit=200, cursor=cursor)):
            yield item

    async def iterate_records(self, job_id: str) -> AsyncIterator[Record]:
        """All records of a job, page by page."""
        async for item in each(lambda cursor: self.list_records(job_id, limit=200, cursor=cursor)):
            yield item

    async def search(
        self,
        query: str,
        *,
        mode: str | None = None,
        job_ids: Sequence[str] | None = None,
        limit: int = 10,
        **options: Any,
    ) -> list[SearchHit]:
        """The chunks that answer a query, best first: the `data` of `search_answer`, which takes the same."""
        answer = await self.search_answer(query, mode=mode, job_ids=job_ids, limit=limit, **options)
        return answer["data"]

    async def search_answer(
        self,
        query: str,
        *,
        mode: str | None = None,
        job_ids: Sequence[str] | None = None,
        limit: int = 10,
        **options: Any,
    ) -> SearchResult:
        """What answers a query, best first, and whether there may be more when it is less than `limit`.

        Args:
            query: A question, or what a passage is about.
            mode: `dense`, `text` or `hybrid`; None: the gateway's default, `hybrid`.
            job_ids: Only what these jobs made.
            limit: Hits, at most.
            options: `project`, `url_prefix`, `language`, `date_from`, `date_to` (as 2026-03-31), `entity`,
                `entity_label`, `distinct_sources`, `embedder`, `rerank`; None is as if it were not given.
        """
        given = {"mode": mode, "job_ids": None if job_ids is None else list(job_ids), **options}
        body = {"query": query, "limit": limit} | {name: value for name, value in given.items() if value is not None}
        found: SearchResult = await self._call("POST", "/search", json=body, repeatable=True)
        return found

    # Steer

    async def cancel_job(self, job_id: str, *, reason: str | None = None, cleanup: bool = False) -> Job:
        """Cancels a job; with `cleanup` all it made is deleted when it stands still."""
        body = {"cleanup": cleanup} | ({"reason": reason} if reason else {})
        job: Job = await self._call("POST", f"/jobs/{segment(job_id)}/cancel", json=body)
        return job

    async def pause_job(self, job_id: str) -> Job:
        """Lets a running job finish what is in flight, and wait."""
        job: Job = await self._call("POST", f"/jobs/{segment(job_id)}/pause")
        return job

    async def resume_job(self, job_id: str) -> Job:
        """Lets a paused job go on."""
        job: Job = await self._call("POST", f"/jobs/{segment(job_id)}/resume")
        return job

    # Clean up and delete

    async def cleanup_job(
        self, job_id: str, *, dry_run: bool = False, delete_record: bool = False, wait_s: float = 0
    ) -> Receipt:
        """Deletes all that an ended job made: starts its cleanup, or joins the one that runs or is done.

        Args:
            job_id: The job.
            dry_run: Only count what would go; the receipt has the status `planned`, and `relying` tells what other
                jobs lose by it, and how many of their `extractions` go too.
            delete_record: Delete the job's record too.
            wait_s: Seconds to wait for the end, at most 60; the receipt's status says whether it came.
        """
        receipt: Receipt = await self._call(
            "POST",
            f"/jobs/{segment(job_id)}/cleanup",
            json={"dry_run": dry_run, "delete_record": delete_record},
            headers={"Prefer": f"wait={int(wait_s)}"} if wait_s else None,
            wait_s=wait_s,
            repeatable=True,
        )
        return receipt

    async def cleanup_project(
        self, project: str, *, dry_run: bool = False, delete_record: bool = False, wait_s: float = 0
    ) -> Receipt:
        """Deletes all that the ended jobs of a project made; refused while it has active ones.

        Args:
            project: Its name.
            dry_run: Only count what would go; the receipt has the status `planned`, and `relying` tells what other
                jobs lose by it, and how many of their `extractions` go too.
            delete_record: Delete the jobs' records too.
            wait_s: Seconds to wait for the end, at most 60; the receipt's status says whether it came.
        """
        receipt: Receipt = await self._call(
            "POST",
            f"/projects/{segment(project)}/cleanup",
            json={"dry_run": dry_run, "delete_record": delete_record},
            headers={"Prefer": f"wait={int(wait_s)}"} if wait_s else None,
            wait_s=wait_s,
            repeatable=True,
        )
        return receipt

    async def forget_source(self, source_id: str, *, dry_run: bool = False, wait_s: float = 0) -> Receipt:
        """Deletes one stored document with all that was made of it, by whichever job.

        Args:
            source_id: The source.
            dry_run: Only count what would go; the receipt has the status `planned`, and names the `other_pages` that
                have this document now; `relying` tells how many `extractions` of other jobs go too.
            wait_s: Seconds to wait for the end, at most 60; the receipt's status says whether it came.
        """
        receipt: Receipt = await self._call(
            "DELETE",
            f"/sources/{segment(source_id)}",
            params={"dry_run": "true"} if dry_run else None,
            headers={"Prefer": f"wait={int(wait_s)}"} if wait_s else None,
            wait_s=wait_s,
            repeatable=True,
        )
        return receipt

    async def delete_job_record(self, job_id: str, *, cleanup: bool | None = None) -> Receipt | None:
        """Deletes the record of an ended job.

        Args:
            job_id: The job.
            cleanup: True: clean up first, then delete; False: delete and leave what the job made; None: refuse
                when there is something left.

        Returns:
            The receipt of the cleanup that was started, or None when the record is deleted.
        """
        params = None if cleanup is None else {"cleanup": "true" if cleanup else "false"}
        receipt: Receipt | None = await self._call("DELETE", f"/jobs/{segment(job_id)}", params=params)
        return receipt

    async def get_cleanup(self, cleanup_id: str) -> Receipt:
        """A receipt, while its cleanup runs and after what it is of is gone."""
        receipt: Receipt = await self._call("GET", f"/cleanups/{segment(cleanup_id)}")
        return receipt

    # Reconcile

    async def reconcile(
        self, *, repair: bool = True, max_share: float | None = None, wait_s: float = 0
    ) -> Reconciliation:
        """Compares the stores with each other and with Temporal: starts that, or joins the run that is at work.

        Args:
            repair: Repair what is found.
            max_share: The largest share of a store that it may delete, 0 to 1; None: the gateway's own.
            wait_s: Seconds to wait for the end, at most 60; the status says whether it came.
        """
        body: dict[str, Any] = {"repair": repair} | ({} if max_share is None else {"max_share": max_share})
        record: Reconciliation = await self._call(
            "POST",
            "/reconciliations",
            json=body,
            headers={"Prefer": f"wait={int(wait_s)}"} if wait_s else None,
            wait_s=wait_s,
            repeatable=True,
        )
        return record

    async def get_reconciliation(self, reconciliation_id: str) -> Reconciliation:
        """What a reconciliation found and repaired, while it runs and after it."""
        record: Reconciliation = await self._call("GET", f"/reconciliations/{segment(reconciliation_id)}")
        return record

    async def list_reconciliations(self, *, limit: int = 50, cursor: str | None = None) -> Page[Reconciliation]:
        """The last reconciliations, newest first."""
        page: Page[Reconciliation] = await self._list("/reconciliations", limit, cursor)
        return page

    async def check_ready(self) -> None:
        """Returns when the gateway and all it needs are up; raises `ApiError`, which names what is down."""
        await self._call("GET", "/readyz")

    async def is_ready(self) -> bool:
        """Whether the gateway and all it needs are up; never raises."""
        try:
            await self.check_ready()
        except ClientError:
            return False
        return True


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _extract(extract: Extract) -> dict[str, Any]:
    return {} if extract is NOT_GIVEN else {"extract": extract}
