"""What a body leaves to an earlier job: a re-crawl its options, an extraction its project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from api.errors import UnknownReference, ValidationFailed
from api.problems import MAX_ERRORS, field_problem
from api.resources import Gateway
from api.schemas import CrawlBody, ExtractBody, ScrapeBody
from ke.contracts.jobs import DEFAULT_PROJECT
from ke.storage.jobs import JobRow, find_job
from ke.storage.listing import owners_of, projects_of

AnyBody: TypeAlias = ScrapeBody | CrawlBody | ExtractBody

NEVER_TAKEN: Final = frozenset({"kind", "labels", "recrawl_of", "forget_replaced", "max_gone_share"})
"""Fields that are of one job: what its owner calls it, and what must be asked for each time."""
MAX_NAMED: Final = 10
"""Projects that a refusal names."""
_ADDRESSES: Final = ("urls", "seeds")
_WITH_SCHEMA: Final = ("instructions", "model", "max_tokens")


@dataclass(frozen=True, slots=True)
class WholeBody:
    """A body with what it leaves out."""

    body: AnyBody
    given: AnyBody
    """As it was sent."""
    taken_over: tuple[str, ...] = ()
    """JSON pointers to what is the earlier job's, where that is no default."""

    @classmethod
    def of(cls, body: AnyBody) -> "WholeBody":
        """A body that leaves nothing to an earlier job."""
        return cls(body, body)


async def with_earlier_options(gateway: Gateway, body: AnyBody) -> WholeBody:
    """A body with what it does not give as the earlier job had it: the one that is crawled again, or extracted.

    Raises:
        UnknownReference: There is no such job to crawl again, or its record is deleted.
        ValidationFailed: Something that would be taken over cannot be used any more; or what is to be extracted is of
            several projects.
        DatabaseUnavailable: Postgres does not answer.
    """
    if isinstance(body, ExtractBody):
        return await _in_project_of_sources(gateway, body) if body.project is None else WholeBody.of(body)
    if body.recrawl_of is None:
        return WholeBody.of(body)
    async with gateway.database.transaction() as connection:
        earlier = await find_job(connection, body.recrawl_of)
    if earlier is None or earlier.deleted_at is not None:
        told = {"pointer": "/recrawl_of", "detail": "There is no such job."}
        raise UnknownReference(f"There is no job {body.recrawl_of}.", errors=[told])
    return taking_over(body, earlier)


async def _in_project_of_sources(gateway: Gateway, body: ExtractBody) -> WholeBody:
    """The body in the project of the job which stored its sources; sources that are not there are refused later."""
    async with gateway.database.transaction() as connection:
        owners = {body.source_job_id} if body.source_job_id is not None else set()
        owners |= set((await owners_of(connection, body.source_ids or ())).values())
        projects = await projects_of(connection, owners)
    if len(projects) > 1:
        named = ", ".join(projects[:MAX_NAMED]) + (", ..." if len(projects) > MAX_NAMED else "")
        told = {"pointer": "/project", "detail": f"The sources are of several projects ({named}): name one."}
        raise ValidationFailed(f"{told['pointer']}: {told['detail']}", errors=[told])
    return WholeBody(body.model_copy(update={"project": next(iter(projects), DEFAULT_PROJECT)}), body)


def taking_over(body: ScrapeBody | CrawlBody, earlier: JobRow) -> WholeBody:
    """A body with all that it does not give as an earlier job had it.

    Of groups (`limits`, `scope`, `rate`, `extract`) each member counts for itself; null in place of one is given too,
    but not in place of the addresses, of which there must be some.

    Raises:
        ValidationFailed: Something that would be taken over cannot be used any more.
    """
    given = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    given = {name: value for name, value in given.items() if name not in _ADDRESSES or value is not None}
    had = {"project": earlier.project, **earlier.params}
    taken = {name: had[name] for name in type(body).model_fields if name in had and name not in NEVER_TAKEN}
    merged = {**taken, **given}
    for name, value in taken.items():
        if isinstance(value, Mapping) and isinstance(given.get(name), Mapping):
            merged[name] = {**value, **given[name]}
    if isinstance(merged.get("extract"), Mapping):
        merged["extract"] = _without_records(merged["extract"], given.get("extract") or {})
    try:
        whole = type(body).model_validate(merged)
    except ValidationError as error:
        raise _unusable(body.kind, error, earlier) from None
    before, now = (one.model_dump(mode="json", by_alias=True) for one in (body, whole))
    return WholeBody(whole, body, tuple(_differences(before, now)))


def _without_records(extract: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What goes with a schema is not taken over where there is none any more."""
    has_none = extract.get("schema") is None
    return {name: value for name, value in extract.items() if not (has_none and name in _WITH_SCHEMA) or name in given}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    """JSON pointers to the members that are not the same, in their order."""
    found: list[str] = []
    for name, value in now.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping) and name != "schema":
            found += _differences(was, value, f"{place}/{name}")
        elif value != was:
            found.append(f"{place}/{name}")
    return found


def _unusable(kind: str, error: ValidationError, earlier: JobRow) -> ValidationFailed:
    found = error.errors(include_url=False)
    problems = [field_problem({**each, "loc": ("body", kind, *each["loc"])}) for each in found[:MAX_ERRORS]]
    first = f"{problems[0]['pointer']}: {problems[0]['detail']}"
    return ValidationFailed(f"{first} It is taken over from job {earlier.id}: give another.", errors=problems)
