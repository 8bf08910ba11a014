"""What a slice of the entities lane has in hand: its sources, their chunks, and what was found in them. No I/O."""

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ke.extraction.entities import ENTITY_TOKENS, Mention
from ke.storage.entity_lane import EntityMention, Progress, ReadyChunk, SearchedSource


@dataclass
class OpenSource:
    """A claimed source that is not finished."""

    source: SearchedSource
    numbers: deque[int] = field(default_factory=deque)
    """Its chunks that were loaded and are not stored, in order."""
    mentions: dict[int, list[EntityMention]] = field(default_factory=dict)
    """What was found in some of them, by their numbers."""
    is_loaded: bool = False
    """Whether it has no more chunks to load."""
    attempts: int = 0
    """How often it was there when something went wrong."""

    @property
    def n_finished(self) -> int:
        """How many of its chunks, from the first one on, are searched."""
        return next((n for n, number in enumerate(self.numbers) if number not in self.mentions), len(self.numbers))


@dataclass(frozen=True, slots=True)
class Found:
    """What can be stored: all up to the first chunk of each source that is not searched."""

    reached: Mapping[SearchedSource, Progress]
    mentions: Sequence[EntityMention]


class Backlog:
    """The sources of one slice, from their claim to the commit of the last of their mentions."""

    def __init__(self, project: str) -> None:
        """Takes the project whose entities the mentions are of."""
        self.project = project
        self._open: dict[uuid.UUID, OpenSource] = {}
        self._waiting: deque[ReadyChunk] = deque()
        self.place = (-1, -1)
        """After which source's place in the lane, and which of its chunks, to load more."""
        self.n_found = 0
        """Mentions that are not stored yet."""

    @property
    def is_empty(self) -> bool:
        """Whether no source is open."""
        return not self._open

    @property
    def n_waiting(self) -> int:
        """Chunks that are loaded, and in no batch yet."""
        return len(self._waiting)

    @property
    def unloaded(self) -> list[uuid.UUID]:
        """The sources that have more chunks to load."""
        return [key for key, entry in self._open.items() if not entry.is_loaded]

    def find(self, source_id: uuid.UUID) -> OpenSource | None:
        """A source, if it is open."""
        return self._open.get(source_id)

    def add(self, claimed: Sequence[SearchedSource]) -> None:
        """Takes up sources, of which nothing is loaded; all those before are."""
        self.place = (claimed[0].seq, -1)
        self._open |= {source.id: OpenSource(source) for source in claimed}

    def load(self, chunks: Sequence[ReadyChunk], *, is_last: bool) -> None:
        """Takes up the chunks that follow `place`; `is_last` says that the unloaded sources have no others."""
        for chunk in chunks:
            self._open[chunk.source_id].numbers.append(chunk.number)
            self.place = (chunk.seq, chunk.number)
        self._waiting.extend(chunks)
        for key in self.unloaded:
            entry = self._open[key]
            entry.is_loaded = is_last or entry.source.seq < self.place[0]

    def next_batch(self) -> list[ReadyChunk]:
        """The next chunks that together have `ENTITY_TOKENS`, or one that has more, of however many sources."""
        batch = [self._waiting.popleft()]
        tokens = batch[0].tokens
        while self._waiting and tokens + self._waiting[0].tokens <= ENTITY_TOKENS:
            batch.append(self._waiting.popleft())
            tokens += batch[-1].tokens
        return batch

    def suspect(self, batch: Sequence[ReadyChunk]) -> list[list[ReadyChunk]]:
        """The chunks of a batch that went wrong, source by source; each source has had one attempt."""
        by_source: dict[uuid.UUID, list[ReadyChunk]] = {}
        for chunk in batch:
            by_source.setdefault(chunk.source_id, []).append(chunk)
            entry = self._open[chunk.source_id]
            entry.attempts = max(entry.attempts, 1)
        return list(by_source.values())

    def found(self, batch: Sequence[ReadyChunk], found: Sequence[Sequence[Mention]]) -> None:
        """Takes up what was found in the chunks of a batch, in their order."""
        for chunk, mentions in zip(batch, found, strict=True):
            entry = self._open.get(chunk.source_id)
            if entry is not None:
                entry.mentions[chunk.number] = [
                    EntityMention.of(self.project, chunk.id, m.text, m.label, (m.start, m.end)) for m in mentions
                ]
                self.n_found += len(mentions)

    def ripe(self) -> Found:
        """What can be stored now."""
        reached: dict[SearchedSource, Progress] = {}
        mentions: list[EntityMention] = []
        for entry in self._open.values():
            n_finished = entry.n_finished
            done = entry.is_loaded and n_finished == len(entry.numbers)
            finished = list(entry.numbers)[:n_finished]
            if finished or done:
                reached[entry.source] = Progress(finished[-1] + 1 if finished else 0, done)
            mentions += (mention for number in finished for mention in entry.mentions[number])
        return Found(reached, mentions)

    def stored(self, found: Found) -> None:
        """Lets go of what was stored, as `ripe` gave it out."""
        self.n_found -= len(found.mentions)
        for source, progress in found.reached.items():
            entry = self._open[source.id]
            while entry.numbers and (progress.done or entry.numbers[0] < progress.next_chunk):
                del entry.mentions[entry.numbers.popleft()]
            if progress.done:
                del self._open[source.id]

    def drop(self, source_id: uuid.UUID) -> None:
        """Lets go of a source in which nothing more can be found."""
        entry = self._open.pop(source_id)
        self.n_found -= sum(len(mentions) for mentions in entry.mentions.values())
        self._waiting = deque(chunk for chunk in self._waiting if chunk.source_id != source_id)
