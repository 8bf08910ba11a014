"""Search over the API: modes, filters, snippets, one hit for each source."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from api.service import candidates, reranking, searching
from ke.contracts.ids import entity_id
from ke.extraction.embed import collection_name, embed
from ke.storage.tables import entities
from ke.storage.vectors.base import Point
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, content_hash, seed_crawl

MODES = ("dense", "text", "hybrid")
each_mode = pytest.mark.parametrize("mode", MODES)


@dataclass(frozen=True)
class Page:
    """What a source says, and what is known of it."""

    chunks: Sequence[str]
    url: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    mentions: Sequence[tuple[str, str]] = ()
    """Of its first chunk: name and label."""


async def _index(api: ApiStack, pages: Sequence[Page], *, project: str = "default") -> Seeded:
    """A job with these sources, their chunks with their true vectors; a source has as many chunks as the first."""
    job = await seed_crawl(
        api.stores.database,
        api.stores.vectors,
        n_sources=len(pages),
        chunks_each=len(pages[0].chunks),
        entities_each=0,
        project=project,
    )
    collection = collection_name("wordllama")
    await api.stores.vectors.ensure_collection(collection, 256)
    texts = [text for page in pages for text in page.chunks]
    owners = [source for source, page in zip(job.sources, pages, strict=True) for _ in page.chunks]
    points = [
        Point(id=key, vector=vector, job_id=job.id, owner_job_id=job.id, source_id=source)
        for key, vector, source in zip(job.extractions, embed("wordllama", texts), owners, strict=True)
    ]
    await api.stores.vectors.upsert(collection, points, epochs={job.id: 1})
    async with api.stores.database.transaction() as connection:
        for key, text in zip(job.extractions, texts, strict=True):
            await connection.execute(
                sa.text("UPDATE extractions SET text = :t, embedder = 'wordllama', collection = :c WHERE id = :id"),
                {"t": text, "c": collection, "id": key},
            )
        for number, (source, page) in enumerate(zip(job.sources, pages, strict=True)):
            await connection.execute(
                sa.text("UPDATE sources SET url = :u, metadata = :m WHERE id = :id").bindparams(
                    sa.bindparam("m", type_=sa.JSON)
                ),
                {"u": page.url or f"https://site.example/{number}", "m": page.metadata, "id": source},
            )
            first = job.extractions[number * len(page.chunks)]
            for name, label in page.mentions:
                mention = {"job_id": job.id, "extraction_id": first, "text": name, "label": label, "start": 0, "end": 1}
                key = entity_id(first, 0, 1, f"{label}{name}")
                await connection.execute(sa.insert(entities).values(id=key, **mention))
    return job


async def _search(api: ApiStack, query: str, **members: Any) -> dict[str, Any]:
    answer = await api.http.post("/search", json={"query": query, **members})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _urls(api: ApiStack, query: str, **members: Any) -> list[str]:
    return [hit["url"] for hit in (await _search(api, query, **members))["data"]]


LAMPS = "The lamp of the tower is lit at dusk."
STEAM = "The steam locomotive changed travel in the nineteenth century."
BREAD = "Bread rises because yeast turns sugar into carbon dioxide."


@each_mode
async def test_each_mode_finds(api: ApiStack, mode: str) -> None:
    """The right chunk comes first, with the scores that the mode looks at, in falling order."""
    job = await _index(api, [Page([LAMPS]), Page([STEAM]), Page([BREAD])])
    hits = (await _search(api, "how does yeast make bread rise", mode=mode, job_ids=[str(job.id)]))["data"]
    assert hits[0]["text"] == BREAD
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert (hits[0]["dense_score"] is not None) == (mode != "text")
    assert (hits[0]["text_score"] is not None) == (mode != "dense")


async def test_hybrid_knows_both_scores_of_what_either_finds(api: ApiStack) -> None:
    """What only the words find has its cosine too, and what only the meaning finds is there without words."""
    job = await _index(api, [Page([LAMPS]), Page([STEAM]), Page([BREAD])])
    hits = (await _search(api, "railway engines, dioxide", job_ids=[str(job.id)]))["data"]
    assert {hit["text"] for hit in hits} == {LAMPS, STEAM, BREAD}
    assert all(hit["dense_score"] is not None for hit in hits)
    assert {hit["text"] for hit in hits if hit["text_score"]} == {BREAD}


async def test_query_without_words_is_searched_by_meaning(api: ApiStack) -> None:
    """The commonest words of English are no words to search by; the default still answers."""
    job = await _index(api, [Page([LAMPS])])
    assert await _urls(api, "what is this", mode="text", job_ids=[str(job.id)]) == []
    assert len(await _urls(api, "what is this", job_ids=[str(job.id)])) == 1


async def test_hits_name_their_projects(api: ApiStack) -> None:
    """A page that two projects have stored comes once for each, told apart by the project of the job that made it."""
    names = {f"p-{uuid.uuid4()}", f"p-{uuid.uuid4()}"}
    jobs = [await _index(api, [Page([STEAM])], project=name) for name in names]
    hits = (await _search(api, "steam engines", job_ids=[str(job.id) for job in jobs]))["data"]
    assert {hit["project"] for hit in hits} == names
    assert len(hits) == len(names)
    one = hits[0]["project"]
    assert [hit["project"] for hit in (await _search(api, "steam engines", project=one))["data"]] == [one]


@each_mode
async def test_filters_hold_in_every_mode(api: ApiStack, mode: str) -> None:
    """Each filter takes what fits and nothing else, alone and together; what is not known of a source fits none."""
    text = "A lamp of the tower."
    name = f"Smeaton-{uuid.uuid4()}"
    english = Page([text], "https://a.example/docs/1", {"language": "en-gb", "date": "2024-05-01"}, [(name, "PERSON")])
    german = Page([text], "https://a.example/docs/2", {"language": "de", "date": "2024-06-30"}, [(name, "ORG")])
    unknown = Page([text], "https://a.example/do_s/3", {"date": "last May"})
    project = f"p-{uuid.uuid4()}"
    job = await _index(api, [english, german, unknown], project=project)
    await _index(api, [english], project=f"q-{uuid.uuid4()}")
    for members, expected in (
        ({}, {1, 2, 3}),
        ({"job_ids": [str(job.id)]}, {1, 2, 3}),
        ({"url_prefix": "https://a.example/docs/"}, {1, 2}),
        ({"url_prefix": "https://a.example/do_s/"}, {3}),
        ({"url_prefix": "https://a.example/%"}, set()),
        ({"language": "EN"}, {1}),
        ({"language": "en-GB"}, {1}),
        ({"language": "fr"}, set()),
        ({"date_from": "2024-05-02"}, {2}),
        ({"date_to": "2024-06-29"}, {1}),
        ({"date_from": "2024-05-01", "date_to": "2024-06-30"}, {1, 2}),
        ({"date_to": "9999-12-31"}, {1, 2}),
        ({"entity": name.upper()}, {1, 2}),
        ({"entity": name, "entity_label": "ORG"}, {2}),
        ({"entity": "Nobody"}, set()),
        ({"entity": name, "language": "en", "date_from": "2024-05-01"}, {1}),
        ({"entity": name, "language": "en", "date_from": "2024-05-02"}, set()),
    ):
        found = await _urls(api, "tower lamp", mode=mode, project=project, **members)
        assert {int(url[-1]) for url in found} == expected, members
    told = (await _search(api, "tower lamp", mode=mode, project=project))["data"]
    assert {(int(hit["url"][-1]), hit["date"], hit["language"]) for hit in told} == {
        (1, "2024-05-01", "en-gb"),
        (2, "2024-06-30", "de"),
        (3, None, None),
    }
    assert all(datetime.fromisoformat(hit["fetched_at"]).tzinfo for hit in told)


@each_mode
async def test_few_that_fit_are_found_among_many_that_do_not(
    api: ApiStack, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """When what fits a filter is far from the query, and is too much to name, it is looked for until it is found."""
    monkeypatch.setattr(candidates, "MAX_FETCH", 20)
    monkeypatch.setattr(candidates, "MAX_SEARCH_IDS", 7)
    near = [Page(["A lamp of the tower."], f"https://near.example/{number}") for number in range(150)]
    far = [Page([f"Bread is not a lamp, loaf {number}."], f"https://far.example/{number}") for number in range(20)]
    project = f"p-{uuid.uuid4()}"
    await _index(api, near + far, project=project)
    found = await _search(
        api, "the tower's lamp", mode=mode, limit=15, project=project, url_prefix="https://far.example/"
    )
    assert len(found["data"]) == 15
    assert found["complete"]


async def test_an_answer_that_runs_short_says_so(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the walk cut off before what fits was seen, the answer is not said to be complete."""
    monkeypatch.setattr(candidates, "MAX_FETCH", 5)
    monkeypatch.setattr(candidates, "MAX_SEARCH_IDS", 5)
    monkeypatch.setattr(candidates, "MAX_WALK", 1)
    monkeypatch.setattr(searching, "MAX_DEPTH", 60)
    project = f"p-{uuid.uuid4()}"
    near = [Page(["A lamp of the tower."], f"https://near.example/{number}") for number in range(100)]
    far = [Page([f"Bread and yeast, number {number}."], f"https://far.example/{number}") for number in range(30)]
    await _index(api, near + far, project=project)
    members = {"mode": "dense", "project": project, "url_prefix": "https://far.example/"}
    found = await _search(api, "the tower's lamp", limit=20, **members)
    assert len(found["data"]) == 5
    assert not found["complete"]
    enough = await _search(api, "the tower's lamp", limit=3, **members)
    assert len(enough["data"]) == 3
    assert enough["complete"]


@each_mode
async def test_one_hit_for_each_source(api: ApiStack, mode: str) -> None:
    """By default a source is there once, with its best chunk, and `limit` counts sources; otherwise all chunks are."""
    pages = [Page([f"A lamp {number}, a tower lamp.", "A lamp again.", "Also a lamp."]) for number in range(4)]
    job = await _index(api, pages)
    hits = (await _search(api, "tower lamp", mode=mode, job_ids=[str(job.id)], limit=4))["data"]
    assert len({hit["source_id"] for hit in hits}) == len(hits) == 4
    assert all("tower" in hit["text"] for hit in hits)
    every = await _search(api, "tower lamp", mode=mode, job_ids=[str(job.id)], limit=50, distinct_sources=False)
    assert len(every["data"]) == 12


@each_mode
async def test_nothing_that_is_cleaned_is_shown(api: ApiStack, mode: str) -> None:
    """From the moment a cleanup begins, and for a forgotten source, no mode shows any of it."""
    job = await _index(api, [Page([LAMPS]), Page([STEAM])])
    members = {"mode": mode, "job_ids": [str(job.id)]}
    assert len(await _urls(api, "lamp locomotive", **members)) == 2
    forgotten = await api.http.delete(f"/sources/{job.sources[0]}", headers={"Prefer": "wait=30"})
    assert forgotten.json()["status"] == "cleaned"
    assert await _urls(api, "lamp locomotive", **members) == ["https://site.example/1"]
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text("UPDATE jobs SET artifacts = 'cleaning' WHERE id = :id"), {"id": job.id})
    assert await _urls(api, "lamp locomotive", **members) == []
    assert await _urls(api, "lamp locomotive", url_prefix="https://site.example/1", **members) == []


@each_mode
async def test_snippets_mark_the_words_of_the_query(api: ApiStack, mode: str) -> None:
    """Marks are places in the snippet, the snippet a place in the text; HTML in it stays, Markdown's marks do not."""
    html = "<b>Lamps</b> &amp; <script>lamp()</script> "
    text = "word " * 200 + html + "[towers](http://lamp.example/lit) **lit** " + "tail " * 200
    job = await _index(api, [Page([text])])
    (hit,) = (await _search(api, "is the lamp of the tower lit", mode=mode, job_ids=[str(job.id)]))["data"]
    snippet = hit["snippet"]
    assert f"{html}towers lit tail" in snippet["text"]
    assert hit["text"][snippet["start"] :].startswith(snippet["text"].removeprefix("…")[:80])
    assert len(snippet["text"]) <= 320 + 2
    assert [snippet["text"][first:last] for first, last in snippet["marks"]] == ["Lamps", "lamp", "towers", "lit"]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_an_embedder_that_embedded_nothing_names_those_that_did(api: ApiStack, mode: str) -> None:
    """What is searched was embedded by another one: that is told, also beside what the words find; else it is null."""
    project = f"p-{uuid.uuid4()}"
    job = await _index(api, [Page([LAMPS])], project=project)
    for members in ({"job_ids": [str(job.id)]}, {"project": project}):
        asked = {"mode": mode, "embedder": "minilm", **members}
        found = await _search(api, "lamp of the tower", **asked)
        assert (len(found["data"]), found["embedders"]) == (1 if mode == "hybrid" else 0, ["wordllama"])
        assert (await _search(api, "lamp", mode=mode, **members))["embedders"] is None
        assert (await _search(api, "lamp", url_prefix="https://nowhere.example/", **asked))["embedders"] == []
    await api.stores.vectors.ensure_collection(collection_name("minilm"), 384)
    assert (await _search(api, "lamp", **asked))["embedders"] == ["wordllama"]
    assert (await _search(api, "lamp", mode="text", embedder="minilm", project=project))["embedders"] is None


async def test_a_job_that_never_was_is_not_searched(api: ApiStack) -> None:
    """It is 404, with a pointer to its id; a job whose record is deleted finds nothing, or what was kept."""
    job, unknown = await _index(api, [Page([LAMPS])]), str(uuid.uuid4())
    answer = await api.http.post("/search", json={"query": "lamp", "job_ids": [str(job.id), unknown]})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (404, "urn:ke:problem:not-found")
    assert problem["detail"] == f"There is no job {unknown}."
    assert [error["pointer"] for error in problem["errors"]] == ["/job_ids/1"]
    assert (await api.http.delete(f"/jobs/{job.id}", params={"cleanup": "false"})).status_code == 204
    assert len(await _urls(api, "lamp", job_ids=[str(job.id)])) == 1


async def test_reranked_hits_are_ordered_by_the_reranker(api: ApiStack) -> None:
    """A reranker orders the best hits anew, by scores from 0 to 1."""
    job = await _index(api, [Page([LAMPS]), Page([STEAM]), Page([BREAD])])
    found = await _search(api, "trains", mode="dense", rerank="minilm", job_ids=[str(job.id)])
    scores = [hit["score"] for hit in found["data"]]
    assert found["data"][0]["text"] == STEAM
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1


async def test_reranking_waits_for_its_turn_and_not_for_ever(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another search is reranked this one waits a while, and is then told to try again; without it answers."""
    monkeypatch.setattr(reranking, "WAIT_S", 0.05)
    job = await _index(api, [Page([LAMPS])])
    query = {"query": "lamps", "job_ids": [str(job.id)]}
    async with api.app.state.gateway.reranking:
        answer = await api.http.post("/search", json={**query, "rerank": "minilm"})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:ke:problem:unavailable")
        assert "Retry-After" in answer.headers
        assert len((await _search(api, **query))["data"]) == 1
    assert len((await _search(api, **query, rerank="minilm"))["data"]) == 1


async def test_text_search_does_without_the_vector_store(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are in Postgres: they are found whatever becomes of the vectors."""
    job = await _index(api, [Page([LAMPS])])

    async def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    for name in ("search", "collections"):
        monkeypatch.setattr(type(api.stores.vectors), name, fail)
    assert len(await _urls(api, "lamps", mode="text", job_ids=[str(job.id)])) == 1


async def test_what_does_not_fit_is_refused(api: ApiStack) -> None:
    """Wrong filters are refused with a pointer, or the reason where two do not fit together."""
    for members, pointer in (
        ({"date_from": "yesterday"}, "/date_from"),
        ({"date_from": "2024-02-30"}, "/date_from"),
        ({"date_to": 20240101}, "/date_to"),
        ({"date_from": "2024-02-02", "date_to": "2024-02-01"}, ""),
        ({"entity_label": "PERSON"}, ""),
        ({"entity": " "}, "/entity"),
        ({"entity": "a\x00b"}, "/entity"),
        ({"language": "english please"}, "/language"),
        ({"url_prefix": ""}, "/url_prefix"),
        ({"rerank": "wordllama"}, "/rerank"),
        ({"distinct_sources": "yes"}, "/distinct_sources"),
    ):
        answer = await api.http.post("/search", json={"query": "lamp", **members})
        assert answer.status_code == 422, members
        assert answer.json()["errors"][0]["pointer"] == pointer, members


async def copy_of(api: ApiStack, job: Seeded, pages: Sequence[Page], *, project: str) -> Seeded:
    """Another job that has stored what this one has: the same bytes at the same addresses."""
    copy = await _index(api, pages, project=project)
    async with api.stores.database.transaction() as connection:
        await connection.execute(
            sa.text("UPDATE sources SET content_hash = :h WHERE job_id = :j"),
            {"h": content_hash(job.id), "j": copy.id},
        )
    return copy


@each_mode
async def test_copies_that_jobs_of_a_project_stored_are_one_hit(api: ApiStack, mode: str) -> None:
    """With as many hits as are asked for all the same; a filter by job finds that job's own copy."""
    project, said = f"p-{uuid.uuid4()}", [Page([f"{LAMPS} Number {number}."]) for number in range(12)]
    first = await _index(api, said, project=project)
    copies = [await copy_of(api, first, said, project=project) for _ in range(2)]
    hits = (await _search(api, "lamp of the tower", mode=mode, project=project, limit=12))["data"]
    assert len({hit["url"] for hit in hits}) == len(hits) == 12
    for job in (first, *copies):
        own = (await _search(api, "lamp of the tower", mode=mode, job_ids=[str(job.id)], limit=20))["data"]
        assert ({hit["job_id"] for hit in own}, len(own)) == ({str(job.id)}, 12)
    two = [str(first.id), str(copies[0].id)]
    assert len((await _search(api, "lamp of the tower", mode=mode, job_ids=two, limit=30))["data"]) == 12
    every = {"mode": mode, "project": project, "limit": 100, "distinct_sources": False}
    assert len((await _search(api, "lamp of the tower", **every))["data"]) == 36


@each_mode
async def test_enough_is_looked_at_where_most_are_copies(
    api: ApiStack, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The best chunks may all be of one document: what else there is is found behind them."""
    monkeypatch.setattr(searching, "DEPTH", 4)
    monkeypatch.setattr(searching, "OVERFETCH", 1)
    project, best, other = (
        f"p-{uuid.uuid4()}",
        [Page(["The lamp of the tower."])],
        [Page([LAMPS], url="https://b.example/")],
    )
    first = await _index(api, best, project=project)
    for _ in range(7):
        await copy_of(api, first, best, project=project)
    await _index(api, other, project=project)
    urls = await _urls(api, "the lamp of the tower", mode=mode, project=project, limit=2)
    assert sorted(urls) == ["https://b.example/", "https://site.example/0"]


@each_mode
async def test_what_differs_is_no_copy(api: ApiStack, mode: str) -> None:
    """Another text at the same address, the same at another, and the same in another project are hits of their own."""
    project, elsewhere = f"p-{uuid.uuid4()}", f"p-{uuid.uuid4()}"
    first = await _index(api, [Page([LAMPS])], project=project)
    changed = await _index(api, [Page([LAMPS])], project=project)
    moved = await copy_of(api, first, [Page([LAMPS], url="https://b.example/")], project=project)
    other = await copy_of(api, first, [Page([LAMPS])], project=elsewhere)
    ids = [str(job.id) for job in (first, changed, moved, other)]
    hits = (await _search(api, "lamp of the tower", mode=mode, job_ids=ids))["data"]
    assert sorted(hit["job_id"] for hit in hits) == sorted(ids)


async def test_reranker_is_not_asked_of_copies(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at chunks of one copy of each document only."""
    asked: list[int] = []

    async def count(_gateway: object, _name: str, _query: str, texts: Sequence[str], _shares: object) -> list[float]:
        asked.append(len(texts))
        return [float(len(texts) - number) for number in range(len(texts))]

    monkeypatch.setattr(searching, "rerank", count)
    project, said = f"p-{uuid.uuid4()}", [Page([f"{LAMPS} Number {number}."]) for number in range(3)]
    first = await _index(api, said, project=project)
    await copy_of(api, first, said, project=project)
    hits = (await _search(api, "lamp of the tower", project=project, rerank="minilm"))["data"]
    assert (asked, len(hits)) == ([3], 3)
