"""A job's parameters as they read in HTTP and stand in its row, made of what its lanes are to do, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ke.contracts.jobs import (
    MAX_GONE_SHARE,
    CollectSpec,
    CrawlLimits,
    CrawlScope,
    ExtractSpec,
    FetchRate,
    JobInput,
    JobKind,
    Reading,
)


def params_of(job: JobInput) -> dict[str, Any]:
    """The job's parameters as they read in HTTP: the submitted body with its defaults filled in."""
    extract = asdict(job.extract) if job.extract else None
    if job.collect is None:
        return extract or {}
    if extract:
        extract.pop("source_job_id")
        extract.pop("source_ids")
    taken_over = {"taken_over": list(job.collect.taken_over)} if job.collect.taken_over else {}
    if not job.collect.follow:
        named = {
            "recrawl_of": job.collect.recrawl_of,
            "forget_replaced": job.collect.forget_replaced,
            "max_gone_share": job.collect.max_gone_share,
            "reading": job.collect.reading.value,
            "browser": job.collect.browser,
        }
        return {"urls": list(job.collect.urls), **named, "extract": extract, **taken_over}
    collect = asdict(job.collect)
    return {
        "seeds": list(job.collect.urls),
        "limits": collect["limits"],
        "scope": collect["scope"],
        "rate": collect["rate"],
        "recrawl_of": job.collect.recrawl_of,
        "forget_replaced": job.collect.forget_replaced,
        "max_gone_share": job.collect.max_gone_share,
        "reading": job.collect.reading.value,
        "browser": job.collect.browser,
        "extract": extract,
        **taken_over,
    }


def specs_of(kind: JobKind, params: Mapping[str, Any]) -> tuple[CollectSpec | None, ExtractSpec | None]:
    """What the two lanes of a job were to do, by its parameters: the inverse of `params_of`."""
    if kind is JobKind.EXTRACT:
        return None, _extract_of(params)
    extract = _extract_of(params["extract"]) if params["extract"] is not None else None
    # Jobs of before have neither an earlier job, nor a browser, nor a choice of reading, nor dropped parameters.
    named = {
        "recrawl_of": params.get("recrawl_of"),
        "forget_replaced": params.get("forget_replaced", False),
        "max_gone_share": params.get("max_gone_share", MAX_GONE_SHARE),
        "reading": Reading(params.get("reading", Reading.THOROUGH)),
        "browser": params.get("browser", False),
        "taken_over": tuple(params.get("taken_over", ())),
    }
    if kind is JobKind.SCRAPE:
        return CollectSpec(tuple(params["urls"]), follow=False, **named), extract
    scope = {"drop_params": (), **params["scope"]}
    lists = {name: tuple(scope[name]) for name in ("include", "exclude", "drop_params")}
    collect = CollectSpec(
        urls=tuple(params["seeds"]),
        follow=True,
        limits=CrawlLimits(**params["limits"]),
        scope=CrawlScope(**scope | lists),
        rate=FetchRate(**params["rate"]),
        **named,
    )
    return collect, extract


def _extract_of(params: Mapping[str, Any]) -> ExtractSpec:
    named = params.get("source_ids")
    return ExtractSpec(**{**params, "source_ids": tuple(named) if named is not None else None})
