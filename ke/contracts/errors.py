"""The error tree of the whole system.

    KeError
    ├── Unavailable              a dependency did not answer: try again        retryable
    │   ├── DatabaseUnavailable
    │   │   └── RowLocked    a row was held longer than the caller wanted to wait
    │   ├── VectorStoreUnavailable
    │   ├── TemporalUnavailable
    │   └── ModelUnavailable
    ├── WorkLost                 a process of our own died under the work      retryable
    ├── Fenced                   the job was stopped, cleaned or taken over    final
    │   └── Stopping             it is being cancelled
    ├── InvalidInput             the request cannot be done as it is written   final
    │   └── FetchRefused         the egress guard does not allow this address
    ├── NotFound                 there is no such thing                        final
    ├── Gone                     there was, and it was deleted                 final
    └── Conflict                 not in the state it is in                     final

An exception's docstring is its default message. `code` is stable and public: it is the `type` of an
`ApplicationError` in Temporal and the end of the `type` URI of a problem in HTTP. Nobody branches on text.
"""

from typing import Any, ClassVar


class KeError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **extra: Any) -> None:
        """Takes a message in place of the docstring, and members that go into the problem document."""
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.extra = extra
        super().__init__(self.message)


class Unavailable(KeError):
    """A dependency did not answer in time."""

    code = "unavailable"
    retryable = True


class DatabaseUnavailable(Unavailable):
    """The database did not answer in time."""

    code = "database-unavailable"


class RowLocked(DatabaseUnavailable):
    """Another transaction holds the row, and did not let go of it in time."""


class VectorStoreUnavailable(Unavailable):
    """The vector store did not answer in time."""

    code = "vector-store-unavailable"


class TemporalUnavailable(Unavailable):
    """Temporal did not answer in time."""

    code = "temporal-unavailable"


class ModelUnavailable(Unavailable):
    """The endpoint of the language model did not answer in time, or does not let us in."""

    code = "model-unavailable"


class WorkLost(KeError):
    """A process that did part of this work died; the work is done again."""

    code = "work-lost"
    retryable = True


class Fenced(KeError):
    """The job was stopped, cleaned or taken over by a newer run; this one may not write any more."""

    code = "fenced"


class Stopping(Fenced):
    """The job is being cancelled: no slice of it begins any more."""

    code = "stopping"


class InvalidInput(KeError):
    """The request cannot be done as it is written."""

    code = "invalid-input"


class FetchRefused(InvalidInput):
    """This address may not be fetched: it is not public, and the operator has not allowed it."""

    code = "fetch-refused"


class NotFound(KeError):
    """There is no such thing."""

    code = "not-found"


class Gone(KeError):
    """It was deleted."""

    code = "gone"


class Conflict(KeError):
    """This cannot be done in the state it is in."""

    code = "conflict"
