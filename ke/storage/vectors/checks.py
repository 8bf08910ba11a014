"""What both adapters refuse, before anything is written: the engine itself would leave a partial batch."""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ke.contracts.errors import InvalidInput
from ke.storage.vectors.base import MAX_BATCH, MAX_SEARCH_IDS

Matrix = NDArray[np.float32]

MAX_DIMENSIONS: Final = 4096
MAX_LIMIT: Final = 10_000
"""Hits or ids in one answer, at most."""

_COLLECTION: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)


def check_collection(name: str) -> None:
    """A collection's name is also a folder's name.

    Raises:
        InvalidInput: It is not made of lower-case letters, digits, dot, dash and underscore, or longer than 100.
    """
    if not _COLLECTION.fullmatch(name):
        raise InvalidInput(f"{name[:120]!r} is no name for a collection: use up to 100 of a-z, 0-9, '.', '_' and '-'")


def check_dimensions(dimensions: int) -> None:
    """Raises `InvalidInput` when no collection can have vectors of this length."""
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidInput(f"vectors have 1 to {MAX_DIMENSIONS} dimensions, not {dimensions}")


def check_batch(size: int) -> None:
    """Raises `InvalidInput` when a call names more than `MAX_BATCH` points."""
    if size > MAX_BATCH:
        raise InvalidInput(f"{size} points in one call; at most {MAX_BATCH} are taken")


def check_search_ids(ids: Sequence[uuid.UUID] | None) -> None:
    """Raises `InvalidInput` when a search names more than `MAX_SEARCH_IDS` points."""
    if ids is not None and len(ids) > MAX_SEARCH_IDS:
        raise InvalidInput(f"{len(ids)} points named in one search; at most {MAX_SEARCH_IDS} are taken")


def check_limit(limit: int) -> None:
    """Raises `InvalidInput` for a limit outside 1 to `MAX_LIMIT`."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is 1 to {MAX_LIMIT}, not {limit}")


class Owned(Protocol):
    """Something that belongs to the job that made it and to the job that owns its source."""

    @property
    def job_id(self) -> uuid.UUID:
        """The maker."""
        ...

    @property
    def owner_job_id(self) -> uuid.UUID:
        """The owner of the source."""
        ...


def check_epochs(points: Iterable[Owned], epochs: Mapping[uuid.UUID, int]) -> None:
    """Raises `InvalidInput` when the epoch of a job that a point names is not given."""
    jobs = {job for point in points for job in (point.job_id, point.owner_job_id)}
    if missing := jobs - epochs.keys():
        raise InvalidInput(f"no epoch is given for job {min(missing)}")


def check_matrix(vectors: Matrix, dimensions: int) -> None:
    """Checks vectors, one a row, against a collection.

    Raises:
        InvalidInput: They have another length, or a value that is not a finite 32-bit float.
    """
    if vectors.shape[1] != dimensions:
        raise InvalidInput(f"the vectors have {vectors.shape[1]} dimensions, the collection {dimensions}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InvalidInput(f"vector {int(np.argmin(finite))} of the batch has a value that is not a finite number")


def as_matrix(vectors: Sequence[Sequence[float]]) -> Matrix:
    """Vectors as 32-bit floats, one a row.

    Raises:
        InvalidInput: They are of different lengths, or not of numbers.
    """
    try:
        # A number too large for 32 bits becomes infinite here, and `check_matrix` refuses it.
        with np.errstate(over="ignore"):
            matrix = np.asarray(vectors, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidInput("the vectors are not all of one length and of numbers") from error
    if matrix.ndim != 2:  # noqa: PLR2004  rows and columns
        raise InvalidInput("the vectors are not all of one length and of numbers")
    return matrix


def following(point_id: uuid.UUID | None) -> uuid.UUID | None:
    """The next possible id, as Qdrant's scroll starts with its offset; None after the last one, or for None."""
    if point_id is None or point_id.int == (1 << 128) - 1:
        return None
    return uuid.UUID(int=point_id.int + 1)
