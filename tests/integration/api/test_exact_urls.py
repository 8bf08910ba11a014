"""Pages and sources of one job, found by exactly one URL."""

from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.ids import page_id
from ke.storage.tables import pages
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl, seed_extract

SITE = "https://site.example"


async def _crawl(api: ApiStack, **options: Any) -> Seeded:
    return await seed_crawl(api.stores.database, api.stores.vectors, **options)


async def _found(api: ApiStack, job: Seeded, what: str, **params: str) -> list[dict[str, Any]]:
    answer = await api.http.get(f"/jobs/{job.id}/{what}", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_page_of_a_url_tells_which_document_it_has(api: ApiStack) -> None:
    """In any spelling, of this job alone, also where the document is another page's; other filters hold beside it."""
    job, _ = await _crawl(api), await _crawl(api)
    async with api.stores.database.transaction() as connection:
        twin = sa.update(pages).where(pages.c.id == page_id(job.id, f"{SITE}/1"))
        await connection.execute(twin.values(state="duplicate", source_id=job.sources[0]))
    for url in (f"{SITE}/1", "HTTPS://site.example:443/a/../1#part"):
        (page,) = await _found(api, job, "pages", url=url)
        assert (page["url"], page["source_id"], page["source_is_stored"]) == (f"{SITE}/1", str(job.sources[0]), True)
    assert len(await _found(api, job, "pages", url=f"{SITE}/1", state="duplicate")) == 1
    assert await _found(api, job, "pages", url=f"{SITE}/1", state="fetched") == []
    assert await _found(api, job, "pages", url=f"{SITE}/none") == []
    by_client = await api.ke.list_pages(str(job.id), url=f"{SITE}/1")
    assert [page["state"] for page in by_client["data"]] == ["duplicate"]


async def test_source_of_a_url_is_that_of_the_job(api: ApiStack) -> None:
    """Of a crawl what it has stored, of an extract job what it works on; with a state, if it is in that one."""
    job, other = await _crawl(api), await _crawl(api)
    extract = await seed_extract(api.stores.database, api.stores.vectors, other)
    for owner, asked in ((job, job), (other, other), (other, extract)):
        (source,) = await _found(api, asked, "sources", url="HTTPS://site.example/1#part")
        assert source["id"] == str(owner.sources[1])
        assert len(await _found(api, asked, "sources", url=f"{SITE}/1", state="done")) == 1
        assert await _found(api, asked, "sources", url=f"{SITE}/1", state="failed") == []
        assert await _found(api, asked, "sources", url=f"{SITE}/none") == []
    by_client = await api.ke.list_sources(str(job.id), url=f"{SITE}/1")
    assert [source["id"] for source in by_client["data"]] == [str(job.sources[1])]


async def test_url_is_read_as_the_crawl_spells_it(api: ApiStack) -> None:
    """Without the parameters that it drops: they are in none of its pages' URLs."""
    job = await _crawl(api, params={"seeds": [f"{SITE}/"], "scope": {"drop_params": ["utm_*"]}})
    for what in ("pages", "sources"):
        assert len(await _found(api, job, what, url=f"{SITE}/1?utm_source=letter")) == 1
        assert await _found(api, job, what, url=f"{SITE}/1?other=1") == []


@pytest.mark.parametrize("what", ["pages", "sources"])
async def test_what_is_no_url_is_refused(api: ApiStack, what: str) -> None:
    """With the parameter's name; and so are a URL and the beginning of one at once, and a cursor of another URL."""
    job = await _crawl(api)
    wrong = [{"url": "ftp://site.example/"}, {"url": ""}]
    wrong += [{"url": f"{SITE}/1", "url_prefix": SITE}] if what == "sources" else []
    for params in wrong:
        answer = await api.http.get(f"/jobs/{job.id}/{what}", params=params)
        assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "url")
    cursor = (await api.http.get(f"/jobs/{job.id}/{what}", params={"limit": 1})).json()["next_cursor"]
    other = await api.http.get(f"/jobs/{job.id}/{what}", params={"url": f"{SITE}/1", "cursor": cursor})
    assert other.json()["type"] == "urn:ke:problem:bad-cursor"
