"""A crawl by `ke`, held against a walk over the same site: every address, and every counter."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ke.client import KnowledgeExtractionClient
from ke.client_http import each
from ke.client_types import Job
from tests.counts.walk import Fate

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was counted in three ways, and what is not the same."""

    walked: Counts
    listed: Counts
    """By the job's list of pages and its dead letters."""
    counted: Counts
    """By the job's own counters; it has not all of them."""
    differences: list[str] = field(default_factory=list)

    def table(self) -> Iterator[str]:
        """The lines of a table."""
        names = list(dict.fromkeys((*self.walked, *self.listed)))
        width = max(map(len, names))
        yield f"  {'':<{width}}  {'walk':>13}  {'pages of ke':>13}  {'counters of ke':>14}"
        for name in names:
            numbers = self.walked.get(name, 0), self.listed.get(name, 0), self.counted.get(name)
            mark = "" if len({*numbers} - {None}) == 1 else "  DIFFERENT"
            walked, listed, counted = ("-" if number is None else f"{number:,}" for number in numbers)
            yield f"  {name:<{width}}  {walked:>13}  {listed:>13}  {counted:>14}{mark}"


def crawl_of(seeds: Sequence[str]) -> dict[str, object]:
    """The body of a crawl that follows what `walk` follows."""
    return {
        "kind": "crawl",
        "seeds": list(seeds),
        "extract": None,
        "reading": "fast",
        "limits": {"max_pages": 1_000_000, "max_depth": 50},
        "scope": {"sitemaps": False},
    }


async def compare(client: KnowledgeExtractionClient, job: Job, walked: Mapping[str, Fate]) -> Comparison:
    """Compares a job that has ended with a walk."""
    found = await _fates(client, job["id"])
    assert job["result"] is not None
    counted = _counters(job["result"])
    comparison = Comparison(_counts(walked), _counts(found), counted, list(_unlike(walked, found)))
    for name, number in counted.items():
        if number != comparison.walked[name]:
            comparison.differences.append(f"{name}: {comparison.walked[name]:,} by the walk, {number:,} by the counter")
    return comparison


async def _fates(client: KnowledgeExtractionClient, job_id: str) -> dict[str, Fate]:
    """What the job says of each address."""
    errors = {letter["url"]: letter["error_type"] async for letter in client.iterate_dead_letters(job_id)}
    fates: dict[str, Fate] = {}
    owners: dict[str, str] = {}
    pages = [page async for page in each(lambda cursor: client.list_pages(job_id, limit=200, cursor=cursor))]
    for page in pages:
        if page["state"] == "fetched" and page["source_id"]:
            owners[page["source_id"]] = page["final_url"] or page["url"]
    for page in pages:
        url, state = page["url"], page["state"]
        size, final_url = page["bytes"] or 0, page["final_url"] or page["url"]
        if state in {"fetched", "duplicate"} and page["source_id"]:
            fates[url] = Fate("document", first=owners[page["source_id"]], final_url=final_url, size=size)
        elif state == "fetched":
            fates[url] = Fate("no document", final_url=final_url, size=size)
        elif state == "failed":
            fates[url] = Fate("failed", errors.pop(url), final_url=final_url)
        else:
            fates[url] = Fate(state, page["reason"] or "")
    assert not errors, f"dead letters of no failed page: {errors}"
    return fates


def _counts(fates: Mapping[str, Fate]) -> Counts:
    kept = [url for url, fate in fates.items() if fate.state == "document"]
    sources = len({fates[url].first for url in kept})
    why = Counter(fate.reason for fate in fates.values() if fate.state == "skipped")
    errors = Counter(fate.reason for fate in fates.values() if fate.state == "failed")
    bare = sum(fate.state == "no document" for fate in fates.values())
    return {
        "pages": len(fates),
        "fetched": sources + bare,
        "sources": sources,
        "duplicates": len(kept) - sources,
        "redirected": sum(bool(fate.final_url) and fate.final_url != url for url, fate in fates.items()),
        "skipped": why.total(),
        **{f"- {reason}": number for reason, number in sorted(why.items())},
        "dead letters": errors.total(),
        **{f"- {error}": number for error, number in sorted(errors.items())},
        "bytes": sum(fate.size for fate in fates.values()),
    }


def _counters(result: Mapping[str, int]) -> Counts:
    fetched, duplicates, skipped = (result[f"pages_{name}"] for name in ("fetched", "duplicate", "skipped"))
    return {
        "pages": fetched + duplicates + skipped + result["pages_failed"],
        "fetched": fetched,
        "sources": result["sources"],
        "duplicates": duplicates,
        "skipped": skipped,
        "dead letters": result["dead_letters"],
        "bytes": result["bytes"],
    }


def _unlike(walked: Mapping[str, Fate], found: Mapping[str, Fate]) -> Iterator[str]:
    """The addresses of which the two say different things."""
    for url in walked.keys() | found.keys():
        ours, theirs = walked.get(url), found.get(url)
        if ours is None or theirs is None:
            yield f"{url}: {'by ke alone' if ours is None else 'by the walk alone'}: {ours or theirs}"
            continue
        if replace(ours, first="") != replace(theirs, first=""):
            yield f"{url}: {ours} by the walk, {theirs} by ke"
    mine, yours = _groups(walked), _groups(found)
    for url in mine.keys() & yours.keys():
        if mine[url] != yours[url]:
            yield f"{url}: the same as {len(mine[url]) - 1} others by the walk, as {len(yours[url]) - 1} by ke"


def _groups(fates: Mapping[str, Fate]) -> dict[str, frozenset[str]]:
    """Of each address that has a document, all that have the same one: which was first, nobody need agree on."""
    members: dict[str, set[str]] = {}
    for url, fate in fates.items():
        if fate.state == "document":
            members.setdefault(fate.first, set()).add(url)
    return {url: group for some in members.values() for group in (frozenset(some),) for url in group}
