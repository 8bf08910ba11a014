"""The named entities of a project over HTTP: merged by name, with neighbours, and gone with what mentioned them."""

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa

from ke.client import ApiError
from ke.contracts.ids import merged_entity_id
from ke.storage.entity_lane import EntityMention
from ke.storage.tables import entities, jobs
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl, seed_extract

Chunk = Sequence[tuple[str, str]]
"""What a chunk mentions: texts with their labels."""

LIGHTS: tuple[Chunk, ...] = (
    [("the Bell Rock", "GPE"), ("Robert Stevenson", "PERSON"), ("1810", "DATE")],
    [("Bell Rock", "GPE"), ("Bell\nRock's", "GPE"), ("Stevenson", "PERSON")],
    [("BELL ROCK", "GPE"), ("Robert  Stevenson", "PERSON")],
    [("Bell Rock", "ORG")],
)


async def mention(api: ApiStack, job: Seeded, project: str, chunks: Sequence[Chunk]) -> None:
    """Writes mentions into the first chunks of a job, as its entities lane would."""
    rows: list[dict[str, Any]] = []
    for chunk, mentions in zip(job.extractions, chunks, strict=False):
        for n, (text, label) in enumerate(mentions):
            found = EntityMention.of(project, chunk, text, label, (n * 50, n * 50 + len(text)))
            rows.append({"job_id": job.id, "project": project, **asdict(found)})
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.insert(entities), rows)


async def a_project(api: ApiStack) -> tuple[str, Seeded]:
    """A project of its own, with one crawl of two sources, each of two chunks."""
    project = f"lights-{uuid.uuid4().hex[:12]}"
    options: dict[str, Any] = {"n_sources": 2, "chunks_each": 2, "entities_each": 0}
    job = await seed_crawl(api.stores.database, api.stores.vectors, project=project, **options)
    await mention(api, job, project, LIGHTS)
    return project, job


async def listed(api: ApiStack, project: str, **filters: Any) -> list[dict[str, Any]]:
    answer = await api.http.get("/entities", params={"project": project, **filters})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_without_a_project_the_entities_of_all_are_listed(api: ApiStack) -> None:
    """One name in two projects is two entities, each with its project."""
    names = {(await a_project(api))[0], (await a_project(api))[0]}
    found = [e async for e in api.ke.iterate_merged_entities(label="GPE", q="bell rock") if e["project"] in names]
    assert {(entity["project"], entity["mentions"]) for entity in found} == {(name, 4) for name in names}
    assert len(found) == len(names)


async def test_mentions_of_one_name_are_one_entity(api: ApiStack) -> None:
    """Spellings are merged by label, with the most frequent one as the name; numbers are of mentions and documents."""
    project, job = await a_project(api)
    first = (await listed(api, project))[0]
    assert first == {
        "id": str(merged_entity_id(project, "GPE", "bell rock")),
        "project": project,
        "name": "BELL ROCK",
        "label": "GPE",
        "aliases": ["Bell Rock", "Bell Rock's", "the Bell Rock"],
        "mentions": 4,
        "sources": 2,
    }
    assert {(e["label"], e["name"], e["mentions"]) for e in (await listed(api, project, label="all"))[1:]} == {
        ("PERSON", "Robert Stevenson", 2),
        ("PERSON", "Stevenson", 1),
        ("ORG", "Bell Rock", 1),
        ("DATE", "1810", 1),
    }
    assert (await api.http.get(f"/entities/{first['id']}")).json() == first
    sources = (await api.http.get(f"/entities/{first['id']}/sources")).json()["data"]
    assert [(source["id"], source["mentions"]) for source in sources] == [
        (str(job.sources[0]), 3),
        (str(job.sources[1]), 1),
    ]


async def test_entities_are_filtered_and_paged(api: ApiStack) -> None:
    """`label` and `q` narrow the list, and its pages show each entity once; a cursor is of its own filters."""
    project, _ = await a_project(api)
    assert {e["name"] for e in await listed(api, project, label="PERSON")} == {"Robert Stevenson", "Stevenson"}
    for q in ("bell", "The BELL", "Bell Rock"):
        assert {(e["label"], e["mentions"]) for e in await listed(api, project, q=q)} == {("GPE", 4), ("ORG", 1)}
    assert await listed(api, project, q="b%") == await listed(api, "nobody") == []
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await api.http.get("/entities", params={"project": project, "limit": 3, **cursor})).json()
        seen += [entity["id"] for entity in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen)) == 4
    for filters in ({"label": "GPE"}, {"q": "b"}, {"project": "other"}):
        answer = await api.http.get("/entities", params={"project": project, **filters, **cursor})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:ke:problem:bad-cursor")


async def test_list_is_of_names_unless_a_label_is_asked_for(api: ApiStack) -> None:
    """Numbers, dates and sums do not stand before the names; a label, or `all`, shows them."""
    project, job = await a_project(api)
    values = [("first", "ORDINAL"), ("1", "CARDINAL"), ("4 feet", "QUANTITY"), ("5 %", "PERCENT"), ("$ 7", "MONEY")]
    await mention(api, job, project, [[], [*values, ("two hours", "TIME")] * 3, [("1810", "DATE")] * 5])
    assert sorted(e["label"] for e in await listed(api, project)) == ["GPE", "ORG", "PERSON", "PERSON"]
    assert [e["name"] for e in await listed(api, project, label="DATE")] == ["1810"]
    everything = await listed(api, project, label="all")
    assert (len(everything), everything[0]["name"]) == (11, "1810")
    assert await listed(api, project, q="181") == []
    assert [e["name"] for e in await listed(api, project, q="181", label="all")] == ["1810"]


async def test_neighbours_are_what_is_mentioned_in_the_same_chunks(api: ApiStack) -> None:
    """Counted by chunks, not by mentions; the entity itself is none of them."""
    project, _ = await a_project(api)
    key = merged_entity_id(project, "GPE", "bell rock")
    near = (await api.http.get(f"/entities/{key}/neighbours")).json()["data"]
    assert (near[0]["name"], near[0]["together"]) == ("Robert Stevenson", 2)
    assert [(e["name"], e["together"], e["mentions"]) for e in near[1:]] == [("Stevenson", 1, 1)]
    near = (await api.http.get(f"/entities/{key}/neighbours", params={"label": "all"})).json()["data"]
    assert {(e["name"], e["together"], e["mentions"]) for e in near[1:]} == {("1810", 1, 1), ("Stevenson", 1, 1)}
    params = {"label": "DATE", "limit": 1}
    dates = (await api.http.get(f"/entities/{key}/neighbours", params=params)).json()["data"]
    assert [e["name"] for e in dates] == ["1810"]
    alone = merged_entity_id(project, "ORG", "bell rock")
    assert (await api.http.get(f"/entities/{alone}/neighbours")).json() == {"data": []}


async def test_nothing_of_a_job_in_cleanup_is_shown(api: ApiStack) -> None:
    """Neither what such a job found itself nor what others found in its sources, before a row is deleted."""
    project, owner = await a_project(api)
    reader = await seed_extract(api.stores.database, api.stores.vectors, owner, entities_each=0)
    await mention(api, reader, project, [[("Arbroath", "GPE")]])
    assert len(await listed(api, project)) == 5
    await set_artifacts(api, reader, "cleaning")
    assert {e["name"] for e in await listed(api, project)}.isdisjoint({"Arbroath"})
    assert len(await listed(api, project)) == 4
    await set_artifacts(api, reader, "present")
    await set_artifacts(api, owner, "cleanup_failed")
    assert await listed(api, project) == []
    key = merged_entity_id(project, "GPE", "bell rock")
    for path in ("", "/sources", "/neighbours"):
        answer = await api.http.get(f"/entities/{key}{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:ke:problem:not-found"), path
    await set_artifacts(api, owner, "present")
    assert len(await listed(api, project)) == 5


async def set_artifacts(api: ApiStack, job: Seeded, artifacts: str) -> None:
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(artifacts=artifacts))


async def test_numbers_are_exact_after_a_source_is_forgotten(api: ApiStack) -> None:
    """A document that goes takes its share of every number, and whom nobody mentions any more is no entity."""
    project, job = await a_project(api)
    answer = await api.http.delete(f"/sources/{job.sources[0]}", headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["deleted"]["entities"]) == (200, 6), answer.text
    assert {(e["label"], e["name"], e["mentions"], e["sources"]) for e in await listed(api, project)} == {
        ("GPE", "BELL ROCK", 1, 1),
        ("PERSON", "Robert Stevenson", 1, 1),
        ("ORG", "Bell Rock", 1, 1),
    }


async def test_client_reads_entities(api: ApiStack) -> None:
    """The client lists, reads and follows entities, and passes a 404 on."""
    project, _ = await a_project(api)
    found = [entity async for entity in api.ke.iterate_merged_entities(project=project)]
    assert (len(found), found[0]["mentions"]) == (4, 4)
    assert await api.ke.get_merged_entity(found[0]["id"]) == found[0]
    assert [near["together"] for near in await api.ke.list_neighbours(found[0]["id"], limit=1)] == [2]
    assert len((await api.ke.list_mentioning_sources(found[0]["id"]))["data"]) == 2
    with pytest.raises(ApiError) as missing:
        await api.ke.get_merged_entity(str(uuid.uuid4()))
    assert missing.value.status == 404


@pytest.mark.parametrize(
    "params",
    [
        {"project": "no spaces"},
        {"q": ""},
        {"q": "a\x00b"},
        {"label": "x" * 65},
        {"limit": 201},
        {"cursor": "x"},
        {"order": "name"},
    ],
    ids=["project", "empty", "nul", "label", "limit", "cursor", "unknown"],
)
async def test_bad_filters_are_refused(api: ApiStack, params: dict[str, Any]) -> None:
    """What does not fit is a problem that says so."""
    answer = await api.http.get("/entities", params=params)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
