"""What a submitted job refers to: other jobs, and their sources."""

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from api.errors import UnknownReference
from api.problems import MAX_ERRORS, pointer_of
from api.schemas import CrawlBody, ExtractBody, ScrapeBody
from ke.contracts.counted import counted
from ke.contracts.errors import Conflict
from ke.contracts.jobs import Artifacts, JobKind
from ke.storage.jobs import get_job
from ke.storage.listing import Owner, hold_owners, owners_of


async def check_references(connection: AsyncConnection, body: ScrapeBody | CrawlBody | ExtractBody) -> None:
    """Makes sure, until the transaction ends, that what is to be extracted or crawled again exists and stays.

    Raises:
        UnknownReference: There is no such job or source, or it is of another kind.
        Conflict: It is not in a state for that.
    """
    if isinstance(body, ExtractBody):
        await _check_sources(connection, body)
    elif body.recrawl_of is not None:
        await _check_recrawl(connection, body.recrawl_of)


async def _check_recrawl(connection: AsyncConnection, job_id: uuid.UUID) -> None:
    owner = (await hold_owners(connection, [job_id])).get(job_id)
    owner = _check_kind(job_id, owner, "/recrawl_of", "fetched no pages")
    row = await get_job(connection, job_id)
    if owner.artifacts is not Artifacts.PRESENT:
        name = "seeds" if owner.kind is JobKind.CRAWL else "urls"
        raise Conflict(
            f"{_without_artifacts(job_id, owner)} Without recrawl_of its {name} can be submitted anew.",
            job_id=str(job_id),
            artifacts=owner.artifacts.value,
            **{name: row.params.get(name, [])},
        )
    if not row.status.is_terminal:
        raise Conflict(
            f"Job {job_id} is {row.status}: only a job that has ended can be crawled again.",
            job_id=str(job_id),
            current_status=row.status.value,
        )


async def _check_sources(connection: AsyncConnection, body: ExtractBody) -> None:
    if body.source_job_id is not None:
        owners = await hold_owners(connection, [body.source_job_id])
        _check_owner(body.source_job_id, owners.get(body.source_job_id), "/source_job_id", "stores no sources")
    elif body.source_ids is not None:
        await _check_source_ids(connection, body.source_ids)


def _check_owner(job_id: uuid.UUID, owner: Owner | None, pointer: str, lack: str) -> None:
    _check_present(job_id, _check_kind(job_id, owner, pointer, lack))


def _check_kind(job_id: uuid.UUID, owner: Owner | None, pointer: str, lack: str) -> Owner:
    if owner is None or owner.is_deleted:
        raise _unknown(f"There is no job {job_id}.", [(pointer, "There is no such job.")])
    if owner.kind is JobKind.EXTRACT:
        raise _unknown(f"Job {job_id} {lack}: it is an extract job itself.", [(pointer, f"This job {lack}.")])
    return owner


async def _check_source_ids(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> None:
    owner_of = await owners_of(connection, source_ids)
    owners = await hold_owners(connection, set(owner_of.values()))
    missing = [
        (pointer_of(("source_ids", number)), "There is no such source.")
        for number, source in enumerate(source_ids)
        if source not in owner_of
    ]
    if missing:
        do = "does" if len(missing) == 1 else "do"
        raise _unknown(f"{len(missing)} of {counted(len(source_ids), 'source')} {do} not exist.", missing)
    for job_id, owner in owners.items():
        _check_present(job_id, owner)


def _check_present(job_id: uuid.UUID, owner: Owner) -> None:
    if owner.artifacts is not Artifacts.PRESENT:
        raise Conflict(_without_artifacts(job_id, owner), job_id=str(job_id), artifacts=owner.artifacts.value)


def _without_artifacts(job_id: uuid.UUID, owner: Owner) -> str:
    return f"Job {job_id} is {owner.artifacts.replace('_', ' ')}: what it stored is deleted, or about to be."


def _unknown(detail: str, errors: Sequence[tuple[str, str]]) -> UnknownReference:
    listed = [{"pointer": pointer, "detail": why} for pointer, why in errors[:MAX_ERRORS]]
    return UnknownReference(detail, errors=listed)
