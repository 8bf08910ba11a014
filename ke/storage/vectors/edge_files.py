"""The files of the embedded vector store: one folder for each collection, made whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import qdrant_edge as qdrant

_INDEXED: Final = ("job_id", "owner_job_id", "source_id")


class FolderDamaged(Exception):
    """A collection's files cannot be opened."""


@dataclass(slots=True)
class Collection:
    """An open collection."""

    dimensions: int
    shard: qdrant.EdgeShard
    dirty: bool = False
    """Whether it has writes that are not durable yet."""


def create(folder: Path, dimensions: int) -> None:
    """Makes an empty collection in a folder of its own; durable when it returns."""
    config = qdrant.EdgeConfig(vectors=qdrant.EdgeVectorParams(size=dimensions, distance=qdrant.Distance.Cosine))
    shard = qdrant.EdgeShard.create(str(folder / "shard"), config)
    for field in _INDEXED:
        shard.update(qdrant.UpdateOperation.create_field_index(field, qdrant.PayloadSchemaType.Uuid))
    shard.flush()
    shard.close()
    with (folder / "collection.json").open("wb") as file:
        file.write(orjson.dumps({"dimensions": dimensions}))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def load(folder: Path) -> Collection:
    """Opens a collection.

    Raises:
        FolderDamaged: It cannot be opened; the message names the folder.
    """
    try:
        dimensions = int(orjson.loads((folder / "collection.json").read_bytes())["dimensions"])
        for log in (folder / "shard" / "wal").glob("open-*"):
            # Killed while it began a new log file, the engine would refuse the empty one for ever.
            if log.stat().st_size == 0:
                log.unlink()
        return Collection(dimensions, qdrant.EdgeShard.load(str(folder / "shard")))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a damaged file is a panic of the engine, which is no `Exception`
        raise FolderDamaged(f"collection {folder} cannot be opened: {error}") from error


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
