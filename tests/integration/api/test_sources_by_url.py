"""Documents of all jobs, found by their URLs."""

import uuid
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ke.contracts.jobs import Artifacts
from ke.storage.search import prefer_indexes
from ke.storage.sources_by_url import by_url
from ke.storage.tables import jobs, sources
from ke.web.urls import MAX_URL_CHARS
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl


async def _stored(api: ApiStack, site: str, paths: list[str]) -> Seeded:
    """A job with documents of a site, in this order of their arrival."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=len(paths), chunks_each=1)
    async with api.stores.database.transaction() as connection:
        for key, path in zip(job.sources, paths, strict=True):
            await connection.execute(sa.update(sources).where(sources.c.id == key).values(url=f"{site}{path}"))
    return job


async def _find(api: ApiStack, **params: Any) -> httpx.Response:
    return await api.http.get("/sources", params=params)


async def _all(api: ApiStack, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await _find(api, limit=2, **params, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


async def test_documents_are_found_by_the_beginning_of_their_urls(api: ApiStack) -> None:
    """Of all jobs, by URL and of each the newest first, over as many pages as it takes; nothing that is cleaned."""
    site = f"https://{uuid.uuid4()}.example"
    first = await _stored(api, site, ["/docs/b", "/docs/a", "/blog/x", "/docs/%25_c"])
    second = await _stored(api, site, ["/docs/a", "/docs/a/deep"])
    found = await _all(api, url_prefix=f"{site}/docs/")
    assert [(s["url"].removeprefix(f"{site}/docs/"), s["job_id"]) for s in found] == [
        ("%25_c", str(first.id)),
        ("a", str(second.id)),
        ("a", str(first.id)),
        ("a/deep", str(second.id)),
        ("b", str(first.id)),
    ]
    assert {source["project"] for source in found} == {"default"}
    of_job = await api.ke.list_sources(str(first.id), url_prefix=f"{site}/docs/%25_")
    assert [source["url"] for source in of_job["data"]] == [f"{site}/docs/%25_c"]
    assert [s["id"] async for s in api.ke.iterate_found_sources(url_prefix=f"{site}/docs/")] == [s["id"] for s in found]
    async with api.stores.database.transaction() as connection:
        cleaning = sa.update(jobs).where(jobs.c.id == second.id).values(artifacts=Artifacts.CLEANING.value)
        await connection.execute(cleaning)
    assert [s["job_id"] for s in await _all(api, url_prefix=f"{site}/docs/a")] == [str(first.id)]


async def test_document_is_found_by_its_url_in_any_spelling(api: ApiStack) -> None:
    """The newest comes first; a URL that nothing is stored of is an empty list."""
    site = f"https://{uuid.uuid4()}.example"
    first = await _stored(api, site, ["/a%20b", "/a"])
    second = await _stored(api, site, ["/a%20b"])
    spelt = f"{site.replace('https', 'HTTPS')}:443/./a b#part"
    assert [s["id"] for s in await _all(api, url=spelt)] == [str(second.sources[0]), str(first.sources[0])]
    assert await _all(api, url=f"{site}/none") == []


async def test_what_is_asked_for_by_no_url_is_refused(api: ApiStack) -> None:
    """Neither of the two, both, what is no URL, and a cursor of another list: a problem each."""
    site = f"https://{uuid.uuid4()}.example"
    await _stored(api, site, ["/a", "/b"])
    for params in ({}, {"url": f"{site}/a", "url_prefix": site}, {"url": "ftp://site.example/"}):
        answer = await _find(api, **params)
        assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "url")
    cursor = (await _find(api, url_prefix=site, limit=1)).json()["next_cursor"]
    other = await _find(api, url_prefix=f"{site}/", cursor=cursor)
    assert other.json()["type"] == "urn:ke:problem:bad-cursor"


async def test_list_goes_on_behind_a_document_that_was_deleted_meanwhile(api: ApiStack) -> None:
    """A cursor holds its place itself, also that of the longest URL, so nothing is left out and nothing comes twice."""
    site = f"https://{uuid.uuid4()}.example"
    longest = f"/b{'b' * (MAX_URL_CHARS - len(site) - 2)}"
    job = await _stored(api, site, ["/a", longest, "/c"])
    cursor = (await _find(api, url_prefix=site, limit=2)).json()["next_cursor"]
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.delete(sources).where(sources.c.id.in_(job.sources[:2])))
    rest = (await _find(api, url_prefix=site, limit=2, cursor=cursor)).json()
    assert [source["url"] for source in rest["data"]] == [f"{site}/c"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("url", "url_prefix"), [(None, "https://many.example/"), ("https://many.example/1", None)], ids=["prefix", "url"]
)
async def test_lists_by_url_are_read_from_the_index(api: ApiStack, url: str | None, url_prefix: str | None) -> None:
    """In its order, so that a part of a list costs what it has, however many documents the prefix has."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=1, chunks_each=0)
    statement = by_url(url=url, url_prefix=url_prefix, limit=50, after=("https://many.example/1", 10))
    written = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text(_MANY), {"job": job.id})
        await connection.execute(sa.text("ANALYZE sources"))
        await prefer_indexes(connection)
        found = await connection.exec_driver_sql(f"EXPLAIN {written}")
        plan = "\n".join(found.scalars())
        await connection.rollback()
    assert "ix_sources_url" in plan
    if url_prefix is not None:
        assert "Index Scan using ix_sources_url on sources" in plan, plan
        assert "->  Incremental Sort" in plan, "only documents of one URL are sorted"


_MANY = """
INSERT INTO sources (id, job_id, url, text, content_type, content_hash, bytes, fetched_at)
SELECT gen_random_uuid(), :job, 'https://many.example/' || number, '', 'text/html', '', 1, now()
FROM generate_series(1, 20000) number
"""
