"""The entities lane against bare spaCy on the same texts."""

import json
from collections.abc import AsyncIterator
from statistics import median

import asyncpg

from ke.client import KnowledgeExtractionClient
from ke.extraction.links import Words
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, crawl_body, peer, remove, run_job
from tests.faults.measures import say

PROCESSES = 2
PAGES = (240, 40)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""What the pool's processes have too: more threads than cores make it slower."""


async def entities(lab: Lab) -> AsyncIterator[Figure]:
    """What entities add to an extract job, against bare `nlp.pipe(n_process=2)` on the same words."""
    web, stack = await lab.served(), await lab.stack()
    ratios: list[float] = []
    lane_s: list[float] = []
    whole_s: list[float] = []
    bare_s: list[float] = []
    tokens = 0
    async with stack.client() as client:
        crawl, _ = await run_job(client, crawl_body(web.url, extract=None, max_pages=lab.options.size(*PAGES)))
        for number in range(lab.options.runs):
            without, _, _ = await _extract(client, stack.endpoints["database"], crawl["id"], None)
            whole, texts, found = await _extract(client, stack.endpoints["database"], crawl["id"], "spacy")
            bare = await peer(
                "tests.bench.peer_entities", str(PROCESSES), given=json.dumps(texts).encode(), env=ONE_THREAD
            )
            if found != bare["entities"]:
                say(f"  NOT THE SAME ENTITIES: {found}, and {bare['entities']} by bare spaCy")
            tokens = bare["tokens"]
            lane_s.append(max(whole - without, 0.001))
            whole_s.append(whole)
            bare_s.append(bare["seconds"])
            ratios.append(bare_s[-1] / lane_s[-1])
            say(f"  run {number + 1}: with entities {whole:.1f} s, without {without:.1f} s, bare {bare_s[-1]:.1f} s")
        await remove(client, crawl["id"])
    note = (
        f"{tokens / median(lane_s):.0f} against {tokens / median(bare_s):.0f} tokens/s"
        f" ({tokens / median(whole_s):.0f} with chunks, embeddings and index)"
    )
    yield Figure("entities", Goal.least(0.9), ratios, note)


async def _extract(
    client: KnowledgeExtractionClient, database: str, crawl: str, finder: str | None
) -> tuple[float, list[str], int]:
    """The seconds of an extract job, what its finder was given of its chunks, and how many entities it found."""
    job, seconds = await run_job(client, {"kind": "extract", "source_job_id": crawl, "entities": finder})
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch("SELECT text FROM extractions WHERE job_id = $1 ORDER BY seq", job["id"])
    finally:
        await connection.close()
    await remove(client, job["id"])
    assert job["result"] is not None
    return seconds, [Words.of(row["text"]).text for row in rows], job["result"]["entities"]
