"""BM25 in SQL: what it scores, in which order, and that a big corpus of common words does not make it dear."""

import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from ke.storage import text_search
from ke.storage.search import ChunkFilter, prefer_indexes
from ke.storage.text_search import TextHit, best_by_words, mark_words, read_query, score_by_words
from tests.seeding import Seeded, seed_crawl
from tests.stores import Stores, open_stores

EVERYTHING = ChunkFilter()


@pytest.fixture(scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("s")) as made:
        yield made


@pytest.fixture
async def stores(opened: Stores) -> Stores:
    """Empty, and without statistics: scores depend on all that is there."""
    async with opened.database.transaction() as connection:
        await connection.exec_driver_sql("TRUNCATE jobs CASCADE")
        await connection.exec_driver_sql("DELETE FROM pg_statistic WHERE starelid = 'extractions'::regclass")
    return opened


async def _chunks(stores: Stores, texts: Sequence[str], *, tokens: Sequence[int] | None = None) -> Seeded:
    """A job of one chunk for each text, in this order; tokens are words where they are not given."""
    job = await seed_crawl(stores.database, stores.vectors, n_sources=len(texts), chunks_each=1, entities_each=0)
    counts = tokens or [len(text.split()) for text in texts]
    async with stores.database.transaction() as connection:
        statement = sa.text("UPDATE extractions SET text = :text, tokens = :tokens WHERE id = :id")
        values = [
            {"text": text, "tokens": count, "id": key}
            for text, count, key in zip(texts, counts, job.extractions, strict=True)
        ]
        await connection.execute(statement, values)
    return job


async def _find(stores: Stores, query: str, *, limit: int = 10) -> list[TextHit]:
    async with stores.database.transaction() as connection:
        await prefer_indexes(connection)
        hits, _ = await best_by_words(connection, await read_query(connection, query), EVERYTHING, limit=limit)
    return hits


def _bm25(query: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The formula as the literature has it, over words that have no ending to lose."""
    documents = [Counter(text.split()) for text in texts]
    mean = sum(document.total() for document in documents) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            df = sum(word in other for other in documents)
            idf = math.log((len(documents) - df + 0.5) / (df + 0.5) + 1)
            tf = document[word]
            score += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * document.total() / mean))
        scores.append(score)
    return scores


async def test_scores_are_those_of_the_formula(stores: Stores) -> None:
    """For counts from 1 to 200 in chunks of any length; and scoring by ids gives the same."""
    texts = ["lamp", "lamp " * 2, "lamp fog fog", "fog " * 7 + "tower", "lamp " * 40 + "fog", "tower " * 200, "x"]
    job = await _chunks(stores, texts)
    expected = dict(zip(job.extractions, _bm25(["lamp", "fog"], texts), strict=True))
    hits = await _find(stores, "fog lamp")
    found = {hit.id: hit.score for hit in hits}
    assert found == pytest.approx({key: score for key, score in expected.items() if score}, rel=1e-6)
    assert [hit.score for hit in hits] == sorted(found.values(), reverse=True)
    many = await _find(stores, "tower")
    assert many[0].score == pytest.approx(max(_bm25(["tower"], texts)), rel=1e-6)
    async with stores.database.transaction() as connection:
        query = await read_query(connection, "fog lamp")
        named = await score_by_words(connection, query, job.extractions, EVERYTHING, limit=10)
    assert [hit for hit in named if hit.score] == hits
    assert {hit.id for hit in named} == set(job.extractions)


async def test_any_word_finds_and_stems_do(stores: Stores) -> None:
    """A chunk need not have all words, nor in the query's form; the commonest words of English find nothing."""
    job = await _chunks(stores, ["The keepers climbed the stairs.", "Nothing of the kind.", "A keeper sleeps."])
    assert {hit.id for hit in await _find(stores, "climbing keeper in Scotland")} == {
        job.extractions[0],
        job.extractions[2],
    }
    assert await _find(stores, "the of and") == []
    assert await _find(stores, "?! --") == []


async def test_headings_are_found_too(stores: Stores) -> None:
    """A word of the headings that a chunk stands under counts like one of its text."""
    job = await _chunks(stores, ["Nothing here.", "Nor here."])
    async with stores.database.transaction() as connection:
        await connection.execute(
            sa.text("UPDATE extractions SET heading = 'Guide > Lenses' WHERE id = :id"), {"id": job.extractions[1]}
        )
    assert [hit.id for hit in await _find(stores, "lens lenses")] == [job.extractions[1]]


@pytest.mark.parametrize("query", ["'", "a'b & !c | (d", "back\\slash \\' x", "http://e.com/a?b=1&c=%27", "x:*", "İ ß"])
async def test_queries_are_words_whatever_is_in_them(stores: Stores, query: str) -> None:
    """No quote, operator or backslash is more than text: the chunk that says the same is found."""
    job = await _chunks(stores, [f"before {query} behind", "something else"])
    hits = await _find(stores, f"{query} behind")
    assert [hit.id for hit in hits] == [job.extractions[0]]
    async with stores.database.transaction() as connection:
        await mark_words(connection, query, job.extractions, ("bXb", "eXe"))


async def test_common_words_are_bounded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rare word proposes, and pairs of common ones do; no step scores more than the budget, and that is told."""
    monkeypatch.setattr(text_search, "BUDGET", 20)
    monkeypatch.setattr(text_search, "MAX_DF", 30)
    texts = ["common plain"] * 60 + ["common"] * 60 + ["common plain rare"] + ["rare " + "filler " * 30]
    job = await _chunks(stores, texts)
    looked_at: list[int] = []
    score = text_search._score

    async def spy(*args: Any) -> tuple[list[TextHit], int]:
        hits, number = await score(*args)
        looked_at.append(number)
        return hits, number

    monkeypatch.setattr(text_search, "_score", spy)
    async with stores.database.transaction() as connection:
        await prefer_indexes(connection)
        query = await read_query(connection, "a rare, common and plain thing")
        hits, more = await best_by_words(connection, query, EVERYTHING, limit=5)
    assert (query.terms[0].lexeme, query.terms[0].chunks) == ("rare", 2)
    assert hits[0].id == job.extractions[-2]
    assert max(looked_at) <= 20
    assert len(looked_at) == 2
    assert more


async def test_counts_come_from_the_statistics(stores: Stores) -> None:
    """After an ANALYZE the commonest words are not counted any more: their share is known."""
    await _chunks(stores, ["common " + ("seldom" if number % 10 == 0 else "often") for number in range(300)])
    async with stores.database.transaction() as connection:
        await connection.exec_driver_sql("ANALYZE extractions")
        query = await read_query(connection, "seldom common")
    assert [(term.lexeme, term.chunks) for term in query.terms] == [("seldom", 30), ("common", 300)]


async def test_only_what_is_ready_is_found(stores: Stores) -> None:
    """A chunk whose point is not there yet, or whose job is being cleaned up, is not in the answer."""
    job = await _chunks(stores, ["lighthouse one", "lighthouse two"])
    async with stores.database.transaction() as connection:
        await connection.execute(
            sa.text("UPDATE extractions SET state = 'pending' WHERE id = :id"), {"id": job.extractions[0]}
        )
    assert [hit.id for hit in await _find(stores, "lighthouse")] == [job.extractions[1]]
    async with stores.database.transaction() as connection:
        await connection.execute(sa.text("UPDATE jobs SET artifacts = 'cleaning'"))
    assert await _find(stores, "lighthouse") == []


async def test_words_are_marked_and_nothing_else_changes(stores: Stores) -> None:
    """Between the marks are words of the query in any form; without the marks the text is what it was."""
    text = (
        "Lamp <b>lamps</b> &lt; http://lamp.example/lamp?x=1 top-lamp\n\n| lamp | -1.5e10 | a@lamp.example 🙂 **LAMP**"
    )
    job = await _chunks(stores, [text])
    async with stores.database.transaction() as connection:
        marked = await mark_words(connection, "the lamp's light", job.extractions, ("bQb", "eQe"))
    (found,) = marked.values()
    assert found.replace("bQb", "").replace("eQe", "") == text.replace("<", " ").replace(">", " ")
    assert "bQbLampeQe  b bQblampseQe /b " in found
    assert "**bQbLAMPeQe**" in found
    assert isinstance(next(iter(marked)), uuid.UUID)


async def test_what_stands_in_angle_brackets_is_found(stores: Stores) -> None:
    """Code is no markup: the words between `<` and `>` are in the index."""
    job = await _chunks(stores, ["returns a Vec<Lantern, Keeper> for x<lens and y>tower", "nothing"])
    for word in ("lantern", "keeper", "lens", "tower"):
        assert [hit.id for hit in await _find(stores, word)] == [job.extractions[0]], word
