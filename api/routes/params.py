"""The parameters that several routes take."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Path, Query
from pydantic import AfterValidator, AwareDatetime
from pydantic_core import PydanticCustomError

MAX_WAIT_S: Final = 60
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("moment_range", "In UTC this is not within the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
JobId = Annotated[UUID, Path(description="The job")]
WaitS = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Seconds to wait for the job's end, at most"),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Names the job: the same key and body give the same job, however often they are sent",
    ),
]
Prefer = Annotated[
    str | None, Header(max_length=1000, description="`wait=30`: wait so many seconds for the end (RFC 7240)")
]


def preferred_wait_s(prefer: str | None) -> float:
    """The seconds that a `Prefer: wait=` header asks for, at most `MAX_WAIT_S`; what it does not say is 0.

    A preference is never refused (RFC 7240, section 2).
    """
    found = _WAIT.search(prefer or "")
    return float(min(int(found[1]), MAX_WAIT_S)) if found else 0.0
