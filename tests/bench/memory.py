"""A worker's memory over a very long crawl."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import median

import psutil

from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, a_stack, crawl_body, submit, warm
from tests.bench.site import rust_docs, served
from tests.faults.measures import MB, private_bytes, roles, say

PAGES = 30_000
EARLY = 3_000
QUICK_PAGES = 100
SAMPLE_S = 0.5
SMOOTH = 0.03
"""The share of the pages over which a value is the median of its samples."""
TELL_EVERY = 3_000


@dataclass(frozen=True, slots=True)
class Sample:
    """How far the crawl was, and what the worker and its pool had."""

    pages: int
    used: int


async def memory(lab: Lab) -> AsyncIterator[Figure]:
    """The worker's memory, its pool included, at the end of a crawl of 30,000 pages, against that at 3,000."""
    goal = Goal.most(1.2)
    site = await lab.site() if lab.options.quick else await asyncio.to_thread(rust_docs)
    if site is None:
        yield Figure("memory", goal, note="rust-doc cannot be had")
        return
    wanted = lab.options.size(PAGES, QUICK_PAGES)
    async with served(site, sitemap=True) as web, a_stack(web.host_port) as stack:
        await warm(stack, web.url)
        async with stack.client() as client:
            job = await submit(client, crawl_body(web.url, extract=None, max_pages=wanted))
            samples: list[Sample] = []
            while job["completed_at"] is None:
                await asyncio.sleep(SAMPLE_S)
                job = await client.get_job(job["id"])
                pages = job["progress"]["pages_fetched"] + job["progress"]["pages_duplicate"]
                found = roles(stack.family(), stack.endpoints["pids"])
                used = sum(private_bytes(process) for process in _of_workers(found))
                if not samples or pages // TELL_EVERY > samples[-1].pages // TELL_EVERY:
                    say(f"  {pages} pages, {used / MB:.0f} MB")
                samples.append(Sample(pages, used))
    pages = samples[-1].pages
    early_at = EARLY if pages >= EARLY * 2 else pages // 10
    early = _around(samples, early_at, early_at + max(1, int(SMOOTH * pages)))
    late = _around(samples, pages - max(1, int(SMOOTH * pages)), pages)
    note = f"{late / MB:.0f} MB at {pages} pages of {site.name}, against {early / MB:.0f} MB at {early_at}"
    yield Figure("memory", goal, [late / early], note)


def _of_workers(found: dict[str, list[psutil.Process]]) -> list[psutil.Process]:
    return [process for role, members in found.items() if role.startswith("workers") for process in members]


def _around(samples: list[Sample], first: int, last: int) -> float:
    """The median memory between two numbers of pages; of the nearest sample where there is none."""
    inside = [sample.used for sample in samples if first <= sample.pages <= last and sample.used]
    nearest = min((s for s in samples if s.used), key=lambda sample: abs(sample.pages - first))
    return median(inside) if inside else nearest.used
