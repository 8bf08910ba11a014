"""The client's methods about dead letters: list them, retry them, purge them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ke.client_http import Calls, each, segment
from ke.client_types import DeadLetter, LetterSummary, Page, Purged, Retry


class DeadLetterCalls(Calls):
    """What a client does with dead letters; each filter that is given must fit."""

    async def list_dead_letters(
        self,
        job_id: str,
        *,
        subject: str | None = None,
        error_type: str | None = None,
        url_prefix: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeadLetter]:
        """The pages and sources of a job that failed for good.

        Args:
            job_id: The job.
            subject: `page`, `source` or `record`.
            error_type: The code of the error, such as `http-500`.
            url_prefix: What the URL begins with.
            limit: Entries, at most 200.
            cursor: `next_cursor` of the answer before.
        """
        filters = {"subject": subject, "error_type": error_type, "url_prefix": url_prefix}
        page: Page[DeadLetter] = await self._list(f"/jobs/{segment(job_id)}/dead-letters", limit, cursor, **filters)
        return page

    async def iterate_dead_letters(self, job_id: str, **filters: str | None) -> AsyncIterator[DeadLetter]:
        """All dead letters of a job that `list_dead_letters` would list, page by page."""

        async def fetch(cursor: str | None) -> Page[DeadLetter]:
            options: dict[str, Any] = {**filters, "limit": 200, "cursor": cursor}
            return await self.list_dead_letters(job_id, **options)

        async for item in each(fetch):
            yield item

    async def summarize_dead_letters(
        self,
        job_id: str,
        *,
        subject: str | None = None,
        error_type: str | None = None,
        url_prefix: str | None = None,
    ) -> LetterSummary:
        """A job's dead letters counted by their errors, filtered as in `list_dead_letters`."""
        params = {"subject": subject, "error_type": error_type, "url_prefix": url_prefix}
        summary: LetterSummary = await self._call("GET", f"/jobs/{segment(job_id)}/dead-letters/summary", params=params)
        return summary

    async def retry_dead_letters(
        self,
        job_id: str,
        *,
        ids: Sequence[str] | None = None,
        subject: str | None = None,
        error_type: str | None = None,
        url_prefix: str | None = None,
    ) -> Retry:
        """Tries what failed for good once more; all of it by default.

        Follow it with `get_retry`. New links are followed and extracted as the job would have.

        Args:
            job_id: The job; it must have ended.
            ids: Exactly these dead letters, at most 1,000.
            subject: Only `page`, `source` or `record`.
            error_type: Only with this code.
            url_prefix: Only of URLs that begin so.
        """
        chosen = {
            "ids": None if ids is None else list(ids),
            "subject": subject,
            "error_type": error_type,
            "url_prefix": url_prefix,
        }
        body = {name: value for name, value in chosen.items() if value is not None}
        retry: Retry = await self._call("POST", f"/jobs/{segment(job_id)}/dead-letters/retry", json=body)
        return retry

    async def get_retry(self, retry_id: str) -> Retry:
        """A retry of dead letters, while it is at work and after it."""
        retry: Retry = await self._call("GET", f"/retries/{segment(retry_id)}")
        return retry

    async def purge_dead_letters(
        self,
        job_id: str,
        *,
        subject: str | None = None,
        error_type: str | None = None,
        url_prefix: str | None = None,
    ) -> int:
        """Deletes a job's dead letters, filtered as in `list_dead_letters`; returns how many.

        Those that a retry has in hand stay.
        """
        params = {"subject": subject, "error_type": error_type, "url_prefix": url_prefix}
        purged: Purged = await self._call("DELETE", f"/jobs/{segment(job_id)}/dead-letters", params=params)
        return purged["purged"]
