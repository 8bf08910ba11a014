"""The journal of the embedded vector store: what was answered outlives the shard's files as of the last flush."""

import errno
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ke.storage.vectors import edge_engine, edge_journal
from ke.storage.vectors.checks import as_matrix
from ke.storage.vectors.edge_engine import EdgeEngine, Owner

DIMENSIONS = 8
NAME = "test-8"
JOB = uuid.uuid4()


class Store:
    """A folder whose shard can be put back to what it was: the files that a power cut leaves as of the last flush."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self._kept = folder / "kept"
        self.engine = EdgeEngine.open(self.folder)
        self.engine.ensure_collection(NAME, DIMENSIONS)
        self.there: dict[uuid.UUID, list[float]] = {}

    @property
    def journal(self) -> Path:
        return self.folder / "collections" / NAME / "journal"

    @property
    def _shard(self) -> Path:
        return self.folder / "collections" / NAME / "shard"

    def write(self, count: int, *, again: bool = False) -> None:
        """Writes points, or other vectors to the first of those there are."""
        ids = sorted(self.there)[:count] if again else [uuid.uuid4() for _ in range(count)]
        vectors = np.random.default_rng().normal(size=(count, DIMENSIONS)).tolist()
        owners = [Owner(point, JOB, JOB, JOB) for point in ids]
        self.engine.upsert(NAME, owners, as_matrix(vectors), {JOB: 1})
        self.engine.sync(NAME)
        self.there.update(zip(ids, vectors, strict=True))

    def delete(self, count: int) -> None:
        ids = sorted(self.there)[-count:]
        self.engine.delete(NAME, ids)
        self.engine.sync(NAME)
        for point in ids:
            del self.there[point]

    def keep(self) -> None:
        """Keeps the shard's files as they are; they must be flushed."""
        self.engine.flush(NAME)
        shutil.copytree(self._shard, self._kept)

    def cut(self, change: Callable[[Path], None] = lambda _: None) -> None:
        """A power cut: the kept shard and the journal are left, the journal changed; and a new start."""
        journal = self.journal.read_bytes()
        self.engine.close()
        shutil.rmtree(self._shard)
        shutil.copytree(self._kept, self._shard)
        self.journal.write_bytes(journal)
        change(self.journal)
        self.engine = EdgeEngine.open(self.folder)

    def check(self) -> None:
        """Holds the store against what it has answered for."""
        found = self.engine.scroll_all(NAME, limit=1000)
        assert set(found) == self.there.keys()
        for point, vector in self.there.items():
            hits = self.engine.search(NAME, as_matrix([vector]), limit=1)
            assert (hits[0].id, round(hits[0].score, 3)) == (point, 1.0)
        assert self.engine.count_job(NAME, JOB) == len(found)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_answered_writes_outlive_the_files_of_the_last_flush(store: Store) -> None:
    """New, changed and deleted points are as answered, after two cuts in a row; the journal is empty afterwards."""
    store.write(40)
    store.keep()
    store.write(30)
    store.write(20, again=True)
    store.delete(25)
    assert store.journal.stat().st_size > 0
    store.cut()
    store.check()
    assert store.journal.stat().st_size == 0
    store.engine.close()


def test_a_journal_that_came_back_changes_nothing(store: Store) -> None:
    """Its writes done once more, on files that have them, leave the store as it is."""
    store.write(40)
    store.delete(10)
    journal = store.journal.read_bytes()
    store.engine.close()
    store.journal.write_bytes(journal)
    store.engine = EdgeEngine.open(store.folder)
    store.check()
    store.engine.close()


def test_a_journal_of_the_shard_before_is_left_out(store: Store) -> None:
    """A crash between the place of an optimised copy and the emptying: the copy had all of it."""
    store.write(10)
    journal = store.journal.read_bytes()
    store.delete(10)
    store.engine.close()
    assert b"shard" in journal
    store.journal.write_bytes(named(journal, "shard-of-before"))
    store.engine = EdgeEngine.open(store.folder)
    store.check()
    assert store.journal.stat().st_size == 0
    store.write(10)
    store.check()
    store.engine.close()


def named(journal: bytes, shard: str) -> bytes:
    """A journal with another shard's name."""
    length = struct.unpack_from("<I", journal)[0]
    name = shard.encode()
    return struct.pack("<II", len(name), zlib.crc32(name)) + name + journal[8 + length :]


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_an_end_that_was_cut_off_is_left_out(store: Store, cut: int) -> None:
    """A write of which the last bytes are missing was not answered: what came before it is there, it is not."""
    store.write(10)
    store.keep()
    store.write(10)
    answered = dict(store.there)
    store.write(10)
    store.there = answered
    store.cut(lambda journal: journal.write_bytes(journal.read_bytes()[:-cut]))
    store.check()
    store.write(5)
    store.check()
    store.engine.close()


def test_a_damaged_write_is_left_out(store: Store) -> None:
    """A frame whose checksum does not fit ends the journal."""
    store.write(10)
    store.keep()
    store.write(10)
    answered = dict(store.there)
    size = store.journal.stat().st_size
    store.write(10)

    def damage(journal: Path) -> None:
        content = bytearray(journal.read_bytes())
        content[size + 40] ^= 1
        journal.write_bytes(content)

    store.there = answered
    store.cut(damage)
    store.check()
    store.engine.close()


def test_a_long_journal_is_flushed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its longest it is emptied into the shard's files."""
    store.write(10)
    assert store.journal.stat().st_size > 0
    monkeypatch.setattr(edge_engine, "JOURNAL_BYTES", 1)
    store.write(10)
    assert store.journal.stat().st_size == 0
    assert not store.engine.collection(NAME).dirty
    store.engine.close()
    store.engine = EdgeEngine.open(store.folder)
    store.check()
    store.engine.close()


def test_where_the_journal_fails_the_files_are_flushed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written or synced costs a flush; a store that cannot be flushed either says so."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(edge_journal.os, "pwrite", full)
        store.write(10)
        assert not store.engine.collection(NAME).dirty
        broken.setattr(edge_engine, "flush", full)
        with pytest.raises(OSError, match="no space left"):
            store.write(10)
    # The writes that failed are in memory, and are written with the next.
    store.write(1)
    assert store.engine.count_all(NAME) == 21
    store.keep()
    store.there = {}
    store.cut()
    assert store.engine.count_all(NAME) == 21
    store.engine.close()


def test_emptying_is_synced_before_the_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that a power cut could bring back would bring back what was deleted since."""
    store.write(10)
    synced: list[int] = []
    monkeypatch.setattr(edge_journal, "_sync", lambda handle: synced.append(os.fstat(handle).st_size))
    monkeypatch.setattr(edge_engine, "JOURNAL_BYTES", 1)
    store.delete(10)
    assert synced == [0]
    store.check()
    store.engine.close()


def test_part_of_a_write_is_written_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed sync has left of a write is replaced by the whole of it."""
    store.write(10)
    store.keep()

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(edge_journal, "_sync", failing)
        broken.setattr(edge_engine, "flush", failing)
        with pytest.raises(OSError, match="input/output error"):
            store.write(10)
    store.write(10)
    expected = store.engine.count_all(NAME)
    store.cut()
    assert store.engine.count_all(NAME) == expected == 30
    store.engine.close()
