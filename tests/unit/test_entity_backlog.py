"""The bookkeeping of a slice of the entities lane: nothing is stored out of order, twice, or not at all."""

import random
import uuid
from collections.abc import Sequence

from activities.entity_backlog import Backlog
from ke.extraction.entities import ENTITY_TOKENS, Mention
from ke.storage.entity_lane import Progress, ReadyChunk, SearchedSource


def sources(number: int) -> list[SearchedSource]:
    return [SearchedSource(uuid.uuid4(), uuid.uuid4(), 1, f"https://site.example/{n}", n) for n in range(number)]


def chunks_of(source: SearchedSource, *tokens: int, first: int = 0) -> list[ReadyChunk]:
    return [
        ReadyChunk(source.seq, source.id, uuid.uuid4(), first + n, f"chunk {first + n}", each)
        for n, each in enumerate(tokens)
    ]


def mentions(batch: Sequence[ReadyChunk]) -> list[list[Mention]]:
    """One for each chunk: its text."""
    return [[Mention(chunk.text, "ORG", 0, len(chunk.text))] for chunk in batch]


def a_backlog(claimed: list[SearchedSource]) -> Backlog:
    backlog = Backlog("docs")
    backlog.add(claimed)
    return backlog


def test_batches_are_filled_across_sources() -> None:
    """A batch has as many chunks as its tokens allow, of however many sources; a longer chunk is one alone."""
    claimed = sources(3)
    backlog = a_backlog(claimed)
    backlog.load(
        [
            *chunks_of(claimed[0], 500, 500),
            *chunks_of(claimed[1], 500, ENTITY_TOKENS + 1),
            *chunks_of(claimed[2], 10),
        ],
        is_last=True,
    )
    sizes = []
    while backlog.n_waiting:
        sizes.append([chunk.tokens for chunk in backlog.next_batch()])
    assert sizes == [[500, 500, 500], [ENTITY_TOKENS + 1], [10]]


def test_only_what_has_no_gap_before_it_is_stored() -> None:
    """A chunk that is searched before its predecessor waits for it: `next_chunk` tells that all before it is stored."""
    (source,) = claimed = sources(1)
    backlog = a_backlog(claimed)
    first, second, third = chunks_of(source, 1, 1, 1)
    backlog.load([first, second, third], is_last=True)
    backlog.found([second], mentions([second]))
    assert backlog.ripe().reached == {}
    backlog.found([first], mentions([first]))
    ripe = backlog.ripe()
    assert ripe.reached == {source: Progress(2, done=False)}
    assert [mention.text for mention in ripe.mentions] == ["chunk 0", "chunk 1"]
    backlog.stored(ripe)
    assert (backlog.n_found, backlog.ripe().reached) == (0, {})
    backlog.found([third], mentions([third]))
    ripe = backlog.ripe()
    assert (ripe.reached, [m.text for m in ripe.mentions]) == ({source: Progress(3, done=True)}, ["chunk 2"])
    backlog.stored(ripe)
    assert backlog.is_empty


def test_source_is_not_done_before_its_last_chunk_is_loaded() -> None:
    """A source that is loaded in parts stays open in between, and the next part follows the place."""
    one, two = claimed = sources(2)
    backlog = a_backlog(claimed)
    part = chunks_of(one, 1, 1)
    backlog.load(part, is_last=False)
    backlog.found(part, mentions(part))
    assert (backlog.place, backlog.unloaded) == ((0, 1), [one.id, two.id])
    backlog.stored(ripe := backlog.ripe())
    assert ripe.reached == {one: Progress(2, done=False)}
    backlog.load([*chunks_of(one, 1, first=2), *chunks_of(two, 1)], is_last=False)
    assert (backlog.place, backlog.unloaded) == ((1, 0), [two.id])
    backlog.load([], is_last=True)
    assert backlog.unloaded == []


def test_source_without_chunks_is_done_at_once() -> None:
    """Nothing is to be found in an empty text."""
    (source,) = claimed = sources(1)
    backlog = a_backlog(claimed)
    backlog.load([], is_last=True)
    assert backlog.ripe().reached == {source: Progress(0, done=True)}


def test_dropped_source_takes_what_is_left_of_it() -> None:
    """What goes wrong is told apart by source, and one that is given up leaves no chunk and no mention behind."""
    bad, good = claimed = sources(2)
    backlog = a_backlog(claimed)
    backlog.load([*chunks_of(bad, 700, 700, 700), *chunks_of(good, 1)], is_last=True)
    batch = backlog.next_batch()
    assert [[chunk.number for chunk in part] for part in backlog.suspect(batch)] == [[0, 1]]
    assert backlog.find(bad.id).attempts == 1
    backlog.found(batch[:1], mentions(batch[:1]))
    backlog.drop(bad.id)
    backlog.found(batch[1:], mentions(batch[1:]))
    assert (backlog.n_found, backlog.find(bad.id)) == (0, None)
    assert [chunk.source_id for chunk in backlog.next_batch()] == [good.id]


def test_every_mention_is_stored_once_in_whatever_order_it_is_found() -> None:
    """Results that come in any order, with commits in between, store each chunk's mention once, and leave nothing."""
    random_order = random.Random(7)
    for _ in range(50):
        claimed = sources(random_order.randint(1, 5))
        backlog = a_backlog(claimed)
        chunks = [chunk for s in claimed for chunk in chunks_of(s, *[400] * random_order.randint(0, 9))]
        half = len(chunks) // 2
        stored: list[uuid.UUID] = []
        for part, is_last in ((chunks[:half], False), (chunks[half:], True)):
            backlog.load(part, is_last=is_last)
            batches = []
            while backlog.n_waiting:
                batches.append(backlog.next_batch())
            random_order.shuffle(batches)
            for batch in batches:
                backlog.found(batch, mentions(batch))
                if random_order.random() < 0.5:
                    ripe = backlog.ripe()
                    stored += [mention.extraction_id for mention in ripe.mentions]
                    backlog.stored(ripe)
        ripe = backlog.ripe()
        stored += [mention.extraction_id for mention in ripe.mentions]
        backlog.stored(ripe)
        assert sorted(stored) == sorted(chunk.id for chunk in chunks)
        assert (backlog.is_empty, backlog.n_found) == (True, 0)
