"""A site that is crawled again, and what is asked of the jobs that did."""

import uuid
from dataclasses import replace

from ke.contracts.jobs import CollectSpec
from ke.storage.listing import list_pages
from tests.integration.lanes import Lanes


def a_site(lanes: Lanes) -> None:
    """Five pages: one with an ETag, one with a date, two with neither; one links to a page that is not there."""
    lanes.site.html("/", "/tagged", "/dated", "/plain")
    lanes.site.versioned("/tagged", "/deep", "/broken", text="It has a tag.", etag='"1"')
    lanes.site.versioned("/dated", text="It has a date.", modified="Mon, 02 Nov 2026 10:00:00 GMT")
    lanes.html("/plain")
    lanes.html("/deep")


async def again(lanes: Lanes, earlier: str, spec: CollectSpec | None = None) -> tuple[str, dict[str, int]]:
    """Crawls the earlier job's pages again; gives the new job and its numbers of pages."""
    lanes.asked.clear()
    lanes.site.requests.clear()
    job, outcome = await lanes.whole(replace(spec or lanes.crawl(), recrawl_of=earlier))
    names = ("fetched", "unchanged", "gone", "failed", "skipped", "duplicate")
    counted = {name: getattr(outcome.counters, f"pages_{name}") for name in names}
    return job, {name: number for name, number in counted.items() if number}


async def previous(lanes: Lanes, job: str, state: str) -> dict[str, uuid.UUID | None]:
    """Path to earlier document of a job's pages in a state, as they are listed."""
    async with lanes.database.transaction() as connection:
        rows = await list_pages(connection, uuid.UUID(job), limit=100, state=state)
    assert all(row.previous_is_stored is (None if row.previous_source_id is None else True) for row in rows)
    return {row.url.removeprefix(lanes.url): row.previous_source_id for row in rows}


async def shared(lanes: Lanes) -> tuple[str, uuid.UUID]:
    """A crawl of two addresses with one document, of which the first says something else from now on."""
    lanes.html("/", "/a", "/b")
    lanes.site.html("/a", text="The same on both.")
    lanes.answers["/b"] = lanes.answers["/a"]
    first, outcome = await lanes.whole(lanes.crawl())
    assert outcome.counters.pages_duplicate == 1
    lanes.site.html("/a", text="Not the same any more.")
    stored = await lanes.stored(first)
    # Whichever of the two came first has it.
    return first, (stored.get("/a") or stored["/b"]).id
