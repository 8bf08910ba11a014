"""Accepting jobs: durable, and once for each Idempotency-Key."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from temporalio.exceptions import WorkflowAlreadyStartedError

from api.errors import IdempotencyKeyReused, ValidationFailed
from api.problems import MAX_ERRORS, pointer_of
from api.resources import Gateway
from api.schemas import ExtractBody, kind_of, options_of, urls_of
from api.service.earlier_options import AnyBody, WholeBody, with_earlier_options
from api.service.references import check_references
from api.views import JobView
from ke.contracts.errors import Gone, InvalidInput, TemporalUnavailable
from ke.contracts.ids import job_id_for_key
from ke.contracts.jobs import DEFAULT_PROJECT, MAX_GONE_SHARE, JobInput, Reading
from ke.extraction.schemas import BadSchema, check_schema
from ke.storage.jobs import JobRow, find_job, insert_job, progress_of, set_run_id
from ke.web.egress import EgressPolicy

TENANT: Final = "default"
"""Everything belongs to one tenant until there are API keys."""


async def submit(gateway: Gateway, body: AnyBody, key: str | None) -> JobView:
    """Accepts a job: its row is committed and its workflow started when this returns.

    The row is written first and committed last, so that a job is never visible without its workflow. A start
    whose commit is lost heals: the workflow's first activity writes the row again, and so does a repeated submit.

    Args:
        gateway: The clients.
        body: A valid body.
        key: The Idempotency-Key; the same key gives the same job.

    Raises:
        InvalidInput: A URL that may not be fetched, an unknown job or source, sources of several projects and none
            named, or a key used for another body.
        Gone: The key's job was deleted.
        Conflict: The sources that are to be extracted are being cleaned up, or the job that is to be crawled again is
            active or cleaned up.
        Unavailable: The job was not accepted, or it is not known whether it was: the same submit with the same key
            tells.
    """
    before = await _submitted_before(gateway, body, key)
    if before is not None:
        return before
    whole = await with_earlier_options(gateway, body)
    check_urls(gateway.policy, whole.body)
    await check_records(gateway, whole.body)
    job = job_input(whole, key)
    job_id = uuid.UUID(job.job_id)
    async with gateway.database.transaction() as connection:
        if await insert_job(connection, job):
            await check_references(connection, body)
            job = replace(job, namespace_id=await gateway.engine.namespace_id())
            run_id = await _start(gateway, job)
            # No more than this before the commit, which the workflow's first activity waits for.
            row = await set_run_id(connection, job_id, run_id, namespace_id=job.namespace_id)
            assert row is not None  # noqa: S101  (written above, and nobody else sees it yet)
            return JobView.of(row, {})
        row = _same_job(await find_job(connection, job_id), job)
        return JobView.of(row, await progress_of(connection, [job_id]))


def job_input(whole: WholeBody, key: str | None) -> JobInput:
    """The workflow's input for a body; its id is the key's, or a new one."""
    body = whole.body
    job_id = job_id_for_key(TENANT, key) if key is not None else uuid.uuid4()
    collect, extract = body.to_specs()
    if collect is not None:
        collect = replace(collect, taken_over=whole.taken_over)
    canonical = json.dumps(_canonical(whole.given), sort_keys=True, separators=(",", ":"))
    return JobInput(
        job_id=str(job_id),
        kind=kind_of(body),
        created_at=datetime.now(UTC).isoformat(),
        project=body.project or DEFAULT_PROJECT,
        labels=dict(body.labels),
        collect=collect,
        extract=extract,
        tenant=TENANT,
        idempotency_key=key,
        request_hash=hashlib.sha256(canonical.encode()).hexdigest(),
    )


_ABSENT: Final = object()
_LATER: Final[Mapping[str, object]] = {
    "recrawl_of": None,
    "forget_replaced": False,
    "max_gone_share": MAX_GONE_SHARE,
    "reading": Reading.THOROUGH.value,
    "browser": False,
    "drop_params": [],
    "record_schema": None,
    "instructions": "",
    "model": None,
    "max_tokens": None,
}
"""The fields of a body that the first release did not have, with their defaults."""


def _canonical(body: AnyBody) -> dict[str, Any]:
    """The body with its defaults, by which a repeated submit is known again.

    Without what came later it reads as it did before there was any of that: a key must outlast an upgrade. A re-crawl
    is known by what was given alone, as what is left out means the earlier job's, whatever becomes of that job; keys
    of re-crawls from before options were taken over are therefore lost.
    """
    if not isinstance(body, ExtractBody) and body.recrawl_of is not None:
        return body.model_dump(mode="json", exclude_unset=True)
    dumped = body.model_dump(mode="json")
    if isinstance(body, ExtractBody):
        # In the first release none given was `default`.
        dumped["project"] = body.project or DEFAULT_PROJECT
    for part in (dumped, dumped.get("scope"), dumped.get("extract")):
        for name, default in _LATER.items():
            if part is not None and part.get(name, _ABSENT) == default:
                del part[name]
    return dumped


def check_urls(policy: EgressPolicy, body: AnyBody) -> None:
    """Refuses URLs that can be seen to be out of bounds without asking anyone, and a body that has none.

    Raises:
        ValidationFailed: With a pointer to each such URL.
    """
    name, urls = urls_of(body)
    if urls is None:
        raise _unfit(f"/{name}", "This is required, unless recrawl_of is a job of the same kind.")
    errors = []
    for number, url in enumerate(urls):
        try:
            policy.check_url(url)
        except InvalidInput as error:
            errors.append({"pointer": pointer_of((name, number)), "detail": error.message})
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}{more}"
        raise ValidationFailed(first, errors=errors[:MAX_ERRORS])


async def check_records(gateway: Gateway, body: AnyBody) -> None:
    """Refuses a schema that cannot be used, any where there is no language model to ask, and what goes with one only.

    Raises:
        ValidationFailed: With a pointer to what is wrong.
    """
    where, options = options_of(body)
    if options is None:
        return
    if options.record_schema is None:
        if options.instructions or options.model is not None or options.max_tokens is not None:
            raise _unfit(where, "instructions, model and max_tokens go with a schema only.")
        return
    try:
        # In a thread: a long schema takes 100 ms.
        await asyncio.to_thread(check_schema, options.record_schema)
    except BadSchema as error:
        raise _unfit(f"{where}/schema", error.message) from None
    if not gateway.has_language_model:
        raise _unfit(f"{where}/schema", "This stack has no language model: KE_LLM_URL is not set.")
    if options.model is None and not gateway.names_model:
        raise _unfit(f"{where}/model", "Name a model: KE_LLM_MODEL is not set.")


def _unfit(pointer: str, detail: str) -> ValidationFailed:
    return ValidationFailed(f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])


async def _submitted_before(gateway: Gateway, body: AnyBody, key: str | None) -> JobView | None:
    """The job that a body was accepted as under its key, where it leaves something to an earlier job; else None.

    Asked before what it leaves out is looked up, which may not be there any more.
    """
    leaves_out = body.project is None if isinstance(body, ExtractBody) else body.recrawl_of is not None
    if key is None or not leaves_out:
        return None
    job = job_input(WholeBody.of(body), key)
    job_id = uuid.UUID(job.job_id)
    async with gateway.database.transaction() as connection:
        row = await find_job(connection, job_id)
        if row is None:
            return None
        return JobView.of(_same_job(row, job), await progress_of(connection, [job_id]))


def _same_job(row: JobRow | None, job: JobInput) -> JobRow:
    """The row that the key names, when it is of the same submit."""
    if row is None or row.deleted_at is not None:
        raise Gone("The job of this Idempotency-Key was deleted; use another key for a new job.", job_id=job.job_id)
    if row.request_hash != job.request_hash:
        raise IdempotencyKeyReused(
            f"This Idempotency-Key belongs to job {row.id}, which was submitted with another body.",
            job_id=str(row.id),
        )
    return row


async def _start(gateway: Gateway, job: JobInput) -> str:
    """Starts the workflow; returns its run id, also when it turns out that it was started before."""
    try:
        return await gateway.engine.start_job(job)
    except WorkflowAlreadyStartedError:
        found = await gateway.engine.describe_job(job.job_id)
    except TemporalUnavailable as error:
        # Whether it was started is unknown: the answer must not be a guess.
        found = await gateway.engine.describe_job(job.job_id)
        if found is None:
            raise TemporalUnavailable(f"The job was not accepted. {error.message}") from error
    if found is None:
        raise TemporalUnavailable("The job's workflow ended at this very moment: try again.")
    if found.request_hash not in {None, job.request_hash}:
        raise IdempotencyKeyReused(f"This Idempotency-Key belongs to job {job.job_id}, which has another body.")
    return found.run_id
