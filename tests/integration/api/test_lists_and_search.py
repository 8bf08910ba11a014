"""What jobs have stored: lists, sources, search."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from api.service import lists
from ke.extraction.embed import collection_name, embed
from ke.storage.tables import dead_letters, entity_tasks
from ke.storage.vectors.base import Point
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, content_hash, seed_crawl, seed_extract

TEXTS = (
    "Cats purr when they are content and sleep for most of the day.",
    "The steam locomotive changed travel in the nineteenth century.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
)


async def _all(api: ApiStack, path: str, **params: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    cursor = None
    while True:
        given = {"limit": 5, **params} | ({"cursor": cursor} if cursor else {})
        page = (await api.http.get(path, params=given)).json()
        entries += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return entries


async def test_lists_show_each_entry_once(api: ApiStack) -> None:
    """Every list of a job gives all its entries, each once, in order, over as many pages as it takes."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_dead_letters=7)
    for name, number in (
        ("sources", job.counts.sources),
        ("pages", job.counts.pages),
        ("extractions", job.counts.extractions),
        ("entities", job.counts.entities),
        ("dead-letters", 7),
    ):
        entries = await _all(api, f"/jobs/{job.id}/{name}")
        assert len({entry["id"] for entry in entries}) == len(entries) == number, name
    done = await _all(api, f"/jobs/{job.id}/sources", state="done")
    assert [entry["extraction_state"] for entry in done] == ["done"] * 3
    assert [entry["entities_state"] for entry in done] == [None] * 3
    async with api.stores.database.transaction() as connection:
        await connection.execute(
            sa.insert(entity_tasks).values(job_id=job.id, source_id=job.sources[1], state="skipped")
        )
    entries = await _all(api, f"/jobs/{job.id}/sources")
    assert [entry["entities_state"] for entry in entries] == [None, "skipped", None]
    assert await _all(api, f"/jobs/{job.id}/sources", state="skipped") == []


async def test_extract_job_lists_the_sources_it_works_on(api: ApiStack) -> None:
    """An extract job owns no sources: its list shows those of the other job that it extracts."""
    owner = await seed_crawl(api.stores.database, api.stores.vectors)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner)
    entries = await _all(api, f"/jobs/{other.id}/sources")
    assert [(entry["id"], entry["job_id"]) for entry in entries] == [(str(s), str(owner.id)) for s in owner.sources]


async def test_source_reads_with_its_text(api: ApiStack) -> None:
    """A source reads with text, metadata and hash."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=1)
    source = (await api.http.get(f"/sources/{job.sources[0]}")).json()
    assert (source["text"], source["job_id"], source["metadata"]) == ("Text 0", str(job.id), {})
    assert source["content_hash"] == content_hash(job.id).hex()


async def test_cursor_of_another_list_is_refused(api: ApiStack) -> None:
    """A cursor that was forged, cut, or given out for another list or filter is a problem of its own."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=3)
    page = (await api.http.get(f"/jobs/{job.id}/sources", params={"limit": 1})).json()
    good = page["next_cursor"]
    filtered = await api.http.get(f"/jobs/{job.id}/sources", params={"cursor": good, "state": "done"})
    assert filtered.json()["type"] == "urn:ke:problem:bad-cursor"
    for path, cursor in (
        (f"/jobs/{job.id}/sources", "AAAA"),
        (f"/jobs/{job.id}/sources", good[:-1]),
        (f"/jobs/{job.id}/sources", f"{good}="),
        (f"/jobs/{job.id}/pages", good),
        ("/jobs", good),
        ("/jobs", "no cursor at all ✓"),
    ):
        answer = await api.http.get(path, params={"cursor": cursor})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:ke:problem:bad-cursor"), (path, cursor)


async def test_dead_letters_are_purged_with_their_number(api: ApiStack) -> None:
    """A purge deletes a job's dead letters and says how many."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_dead_letters=4)
    assert (await api.http.delete(f"/jobs/{job.id}/dead-letters")).json() == {"purged": 4}
    assert await _all(api, f"/jobs/{job.id}/dead-letters") == []
    assert (await api.http.delete(f"/jobs/{job.id}/dead-letters")).json() == {"purged": 0}


async def test_dead_letters_are_counted_by_error(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent error comes first, each with its first letter; filters hold, and what is left out is told."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_dead_letters=6)
    path = f"/jobs/{job.id}/dead-letters"
    first, *_, last = await _all(api, path)
    async with api.stores.database.transaction() as connection:
        gone = sa.update(dead_letters).where(dead_letters.c.id == last["id"])
        await connection.execute(gone.values(error_type="http-404", error_message="Not there."))
    summary = (await api.http.get(f"{path}/summary")).json()
    assert (summary["letters"], summary["errors"]) == (6, 2)
    assert [(group["error_type"], group["letters"], group["url"]) for group in summary["data"]] == [
        ("http-500", 5, first["url"]),
        ("http-404", 1, last["url"]),
    ]
    assert summary["data"][1]["error_message"] == "Not there."
    one = (await api.http.get(f"{path}/summary", params={"url_prefix": last["url"]})).json()
    assert (one["letters"], one["errors"], len(one["data"])) == (1, 1, 1)
    assert await api.ke.summarize_dead_letters(str(job.id), error_type="http-404") == one
    none = (await api.http.get(f"{path}/summary", params={"subject": "source"})).json()
    assert none == {"letters": 0, "errors": 0, "data": []}
    monkeypatch.setattr(lists, "MAX_ERRORS_TOLD", 1)
    cut = (await api.http.get(f"{path}/summary")).json()
    assert (cut["letters"], cut["errors"], len(cut["data"])) == (6, 2, 1)
    assert (await api.http.get(f"/jobs/{uuid.uuid4()}/dead-letters/summary")).status_code == 404


async def _searchable(api: ApiStack) -> Seeded:
    """A job whose three chunks say what TEXTS says, with their true vectors."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=3, chunks_each=1)
    collection = collection_name("wordllama")
    await api.stores.vectors.ensure_collection(collection, 256)
    vectors = embed("wordllama", list(TEXTS))
    points = [
        Point(id=key, vector=vector, job_id=job.id, owner_job_id=job.id, source_id=source)
        for key, vector, source in zip(job.extractions, vectors, job.sources, strict=True)
    ]
    await api.stores.vectors.upsert(collection, points, epochs={job.id: 1})
    async with api.stores.database.transaction() as connection:
        for key, text in zip(job.extractions, TEXTS, strict=True):
            await connection.execute(
                sa.text("UPDATE extractions SET text = :t, state = 'ready', collection = :c WHERE id = :id"),
                {"t": text, "c": collection, "id": key},
            )
    return job


async def _search(api: ApiStack, query: str, **members: Any) -> list[dict[str, Any]]:
    answer = await api.http.post("/search", json={"query": query, **members})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_search_finds_by_meaning_and_only_where_asked(api: ApiStack) -> None:
    """The nearest chunk comes first, with the document it is from; filters hold."""
    job, other = await _searchable(api), await _searchable(api)
    hits = await _search(api, "how does a loaf of bread get its bubbles", job_ids=[str(job.id)], limit=2)
    assert len(hits) == 2
    assert hits[0]["text"] == TEXTS[2]
    assert (hits[0]["url"], hits[0]["job_id"]) == ("https://site.example/2", str(job.id))
    assert hits[0]["score"] > hits[1]["score"]
    everywhere = await _search(api, "railway engines", limit=100)
    assert {str(job.id), str(other.id)} <= {hit["job_id"] for hit in everywhere}
    assert await _search(api, "railway engines", project="no-such-project") == []


async def test_search_shows_nothing_that_is_cleaned(api: ApiStack) -> None:
    """From the moment a cleanup begins, and with points whose rows are gone, a search shows none of it."""
    job = await _searchable(api)
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text("UPDATE jobs SET artifacts = 'cleaning' WHERE id = :id"), {"id": job.id})
    assert await _search(api, "cats", job_ids=[str(job.id)]) == []
    orphan = await _searchable(api)
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text("DELETE FROM sources WHERE job_id = :id"), {"id": orphan.id})
    assert await _search(api, "cats", job_ids=[str(orphan.id)]) == []


async def test_search_does_not_find_a_forgotten_source(api: ApiStack) -> None:
    """Its chunks are gone from the answers, and those of the other sources of the same job are not."""
    job = await _searchable(api)
    query = "how does a loaf of bread get its bubbles"
    assert (await _search(api, query, job_ids=[str(job.id)]))[0]["text"] == TEXTS[2]
    answer = await api.http.delete(f"/sources/{job.sources[2]}", headers={"Prefer": "wait=30"})
    assert answer.json()["status"] == "cleaned"
    hits = await _search(api, query, job_ids=[str(job.id)])
    assert {hit["text"] for hit in hits} == {*TEXTS} - {TEXTS[2]}


async def test_search_refuses_what_it_cannot_do(api: ApiStack) -> None:
    """Empty queries, unknown modes and embedders, and limits out of range are refused with a pointer."""
    for members, pointer in (
        ({"query": "  "}, "/query"),
        ({"query": "cats", "mode": "sparse"}, "/mode"),
        ({"query": "cats", "embedder": "nobody"}, "/embedder"),
        ({"query": "cats", "limit": 0}, "/limit"),
        ({"query": "cats", "limit": 101}, "/limit"),
        ({"query": "cats", "job_ids": ["x"]}, "/job_ids/0"),
        ({"query": "a\x00b"}, "/query"),
    ):
        answer = await api.http.post("/search", json=members)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer), members
