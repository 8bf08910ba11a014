"""The whole story on your machine: crawl, extract, search, cancel midway, clean up, delete. Every claim is checked.

    python examples/demo.py                             # the site in examples/site, served on loopback
    python examples/demo.py --site https://example.com/ # a real site, with small limits

It starts a stack of its own (`ke up`, free ports, a fresh folder), and ends it. The exit status is 0 only if every
claim on the screen was checked and held.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from examples.demo_oddities import check_oddities
from examples.demo_site import OwnSite, Site, opened_site, path_of
from examples.demo_stack import DemoStack, StackFailed, fresh_folder
from examples.demo_story import Story
from ke.cli.errors import CommandFailed
from ke.cli.text import count, duration, shorten, size
from ke.cli.watch import follow, has_ended, view_for
from ke.client import ApiError, ClientError, KnowledgeExtractionClient
from ke.client_types import Receipt
from ke.contracts.errors import KeError

JOB_TIMEOUT_S: Final = 600.0
CANCEL_TIMEOUT_S: Final = 60.0
CLEANUP_WAIT_S: Final = 60.0
QUIET_AFTER_S: Final = 2.0
"""No fetch starts later than this after a cancel was accepted."""
LISTEN_S: Final = 3.0
"""How long the site is listened to after a cancel."""
MIDWAY_PAGES: Final = 4
SLOW_ANSWER_S: Final = 1.0
HITS: Final = 5
INDENT: Final = "   "
INTERRUPTED: Final = 130
WHERE_NEXT: Final = (
    ("make up", "the same stack to keep; Ctrl-C ends it, and its jobs go on at the next start"),
    (".venv/bin/ke crawl URL --watch", "a crawl of your own; ke --help lists the rest"),
    ("http://127.0.0.1:8080/docs", "the HTTP API, while `make up` runs"),
    ("http://127.0.0.1:8233", "Temporal's web UI, while it runs: every job is a workflow"),
    (".venv/bin/ke mcp", "the same for agents"),
    ("README.md, ARCHITECTURE.md", "how to use it, and how it works"),
)

Job = Mapping[str, Any]


async def crawl(story: Story, ke: KnowledgeExtractionClient, site: Site) -> Job:
    """Crawl the site and extract it, with live progress; hold the result against what is stored and known."""
    story.chapter(f"Crawl {site.url} and extract what it says")
    job = await ke.submit_crawl([site.url], limits=site.limits, extract={}, project="demo", labels={"story": "first"})
    story.aside(f"job {job['id']}")
    with view_for(quiet=False, indent=INDENT) as view:
        done = await follow(ke, job["id"], view, timeout_s=JOB_TIMEOUT_S)
    result = done["result"]
    story.check("the crawl ended by itself", done["status"] in {"completed", "completed_with_errors"}, _ending(done))
    urls = await _all(source["url"] async for source in ke.iterate_sources(job["id"]))
    story.expect("the result counts the sources that are stored", len(urls), result["sources"])
    story.expect("every source was extracted", len(urls), result["sources_extracted"])
    story.check("there are chunks", result["extractions"] > 0, count(result["extractions"]))
    story.expect("every chunk has its vector", result["extractions"], result["vectors"])
    story.check("named entities were found", result["entities"] > 0, count(result["entities"]))
    if site.own:
        check_against_manifest(story, site.own, result, urls)
        await check_oddities(story, ke, site.own, done)
    took = f"{size(result['bytes'])} in {duration(result['elapsed_s'])}"
    story.fact("pages", f"{result['pages_fetched']} fetched, {result['pages_failed']} failed, {took}")
    for name, counter in (("sources", "sources"), ("chunks", "extractions"), ("entities", "entities")):
        story.fact(name, count(result[counter]))
    return done


def _ending(job: Job) -> str:
    error = job.get("error") or {}
    return f"{job['status']}: {error['message']}" if error else str(job["status"])


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def check_against_manifest(story: Story, own: OwnSite, result: Mapping[str, Any], urls: list[str]) -> None:
    """Hold a crawl of our own site against an independent walk of it, and against the server's own record."""
    manifest, paths = own.manifest, own.manifest["paths"]
    story.expect("it found exactly the different pages there are", manifest["sources"], result["sources"])
    found = result["pages_fetched"] + result["pages_duplicate"]
    answers = manifest["pages"] + manifest["redirects"]
    story.expect("it fetched every address that answers, the redirect too", answers, found)
    story.expect("the broken link is the one failed page", manifest["broken"], result["pages_failed"])
    kept = sum(path_of(url) in paths["duplicates"] for url in urls)
    story.expect("of two addresses with one content, one was kept", 1, kept)
    asked = [path_of(record.path) for record in own.server.requests]
    story.check("what robots.txt forbids was never asked for", not set(paths["disallowed"]) & set(asked))
    # A broken page may be tried again, and a redirect leads to a page that is fetched for itself as well.
    excused = {*paths["broken"], *paths["redirects"], *paths["redirects"].values()}
    twice = sorted({path for path in asked if asked.count(path) > 1} - excused)
    story.check("nothing was asked for twice", not twice, ", ".join(twice) or f"{len(asked)} requests")


async def search(story: Story, ke: KnowledgeExtractionClient, site: Site, job: Job) -> None:
    """Ask questions whose answers are known to be there."""
    story.chapter("Search")
    if site.own:
        questions = [(entry["question"], entry["page"]) for entry in site.own.manifest["questions"]]
    else:  # nobody knows the answers: ask for passages that are there
        chunks = (await ke.list_extractions(job["id"], limit=3))["data"]
        questions = [(shorten(chunk["text"], 100), None) for chunk in chunks]
    found = 0
    for question, page in questions:
        hits = await ke.search(question, job_ids=[job["id"]], limit=HITS)
        right = [hit for hit in hits if hit["job_id"] == job["id"] and page in {None, path_of(hit["url"])}]
        found += bool(right)
        story.say(question, style="bold")
        for hit in (right or hits)[:1]:
            story.aside(f"{hit['score']:.3f}  {hit['url']}")
            story.aside(f"       {shorten(hit['text'], 100)}")
    story.check("there was something to ask", bool(questions), f"{len(questions)} questions")
    claim = f"every question has its page among the first {HITS} hits" if site.own else "every passage has hits"
    story.expect(claim, len(questions), found)
    story.fact(
        "search", f"{found} of {len(questions)} questions answered by {'the right page' if site.own else 'hits'}"
    )


async def cancel_midway(story: Story, ke: KnowledgeExtractionClient, site: Site) -> Job:
    """Start a second, slow crawl, cancel it in its middle, and see what comes after."""
    story.chapter("Cancel a second crawl in its middle")
    rate = {"concurrency": 1, "delay_s": SLOW_ANSWER_S}
    if site.own:
        rate = {"concurrency": 2}
        site.own.server.delay_s = SLOW_ANSWER_S
        story.aside(f"the site now takes {SLOW_ANSWER_S:.0f} s for each answer")
    labels = {"story": "second"}
    job = await ke.submit_crawl([site.url], limits=site.limits, rate=rate, extract={}, project="demo", labels=labels)
    with view_for(quiet=False, indent=INDENT) as view:
        before = await follow(ke, job["id"], view, timeout_s=JOB_TIMEOUT_S, until=_is_midway)
    story.check("the crawl was running when it was cancelled", not has_ended(before), before["status"])
    asked_s = time.monotonic()
    await ke.cancel_job(job["id"], reason="the demo has seen enough")
    accepted_s = time.monotonic()
    with view_for(quiet=True) as view:
        ended = await follow(ke, job["id"], view, timeout_s=CANCEL_TIMEOUT_S)
    seen_s = time.monotonic() - asked_s
    story.expect("the job is cancelled", "cancelled", ended["status"])
    receipt = ended["result"].get("cancellation") or {}
    story.check("its receipt says after what time it stood still", "latency_s" in receipt, _latency(receipt))
    await asyncio.sleep(max(0.0, accepted_s + LISTEN_S - time.monotonic()))
    if site.own:
        check_silence(story, site.own, accepted_s, ended)
    again = await ke.get_job(job["id"])
    story.expect("nothing was added after its end", ended["result"], again["result"])
    story.fact("cancel", f"stood still after {_latency(receipt)}; seen over HTTP after {duration(seen_s)}")
    return again


def _is_midway(job: Job) -> bool:
    done = job.get("progress") or {}
    return has_ended(job) or (done.get("pages_fetched", 0) >= MIDWAY_PAGES and done.get("extractions", 0) > 0)


def _latency(receipt: Mapping[str, Any]) -> str:
    return duration(receipt.get("latency_s"))


def check_silence(story: Story, own: OwnSite, accepted_s: float, ended: Job) -> None:
    """Read in the site's own record that nobody asked for anything after a cancel, and let it be quick again."""
    later_s = [record.monotonic_s - accepted_s for record in own.server.requests if record.monotonic_s > accepted_s]
    last = f"the last one {max(later_s):.2f} s after" if later_s else f"none at all in {LISTEN_S:.0f} s"
    quiet = max(later_s, default=0.0) <= QUIET_AFTER_S
    story.check(f"the site got no request later than {QUIET_AFTER_S:.0f} s after it", quiet, last)
    sources = ended["result"]["sources"]
    story.check(
        "it kept what it had, and not all there is", 0 < sources < own.manifest["sources"], f"{sources} sources"
    )
    own.server.delay_s = 0.0


async def clean_up(story: Story, ke: KnowledgeExtractionClient, job: Job) -> Receipt:
    """Delete all that the cancelled job made, and hold the receipt against what was there."""
    story.chapter("Clean up after it")
    job_id = job["id"]
    counted = {
        "sources": len(await _all(ke.iterate_sources(job_id))),
        "extractions": len(await _all(ke.iterate_extractions(job_id))),
        "entities": len(await _all(ke.iterate_entities(job_id))),
        "dead_letters": len(await _all(ke.iterate_dead_letters(job_id))),
    }
    probe = next((hit["text"] for hit in await ke.search("light", job_ids=[job_id], limit=1)), "")
    story.check("before, a search finds something of it", bool(probe))
    receipt = await ke.cleanup_job(job_id, wait_s=CLEANUP_WAIT_S)
    show_receipt(story, receipt)
    deleted, remaining = receipt["deleted"], receipt["remaining"]
    story.expect("the receipt says cleaned", "cleaned", receipt["status"])
    story.expect("it deleted what the API had counted", counted, {store: deleted.get(store) for store in counted})
    story.expect("every chunk's vector went with it", counted["extractions"], deleted["vectors"])
    story.check("nothing remains in any store", bool(remaining) and not any(remaining.values()))
    story.expect("a second cleanup gives the same receipt", receipt, await ke.cleanup_job(job_id))
    story.expect("the API lists no source of it", [], (await ke.list_sources(job_id))["data"])
    found = await ke.search(probe or "light", job_ids=[job_id], limit=HITS)
    story.expect("a search finds nothing of it", [], found)
    story.fact("cleanup", f"{receipt['status']}: deleted {_numbers(deleted)}")
    story.fact("remaining", _numbers(remaining))
    return receipt


def show_receipt(story: Story, receipt: Receipt) -> None:
    """Print a receipt, store by store."""
    planned, deleted, remaining = (dict(receipt[part]) for part in ("planned", "deleted", "remaining"))
    rows = [
        (INDENT + name.replace("_", " "), planned[name], deleted.get(name), remaining.get(name)) for name in planned
    ]
    story.table((f"{INDENT}store", "planned", "deleted", "remaining"), rows)


def _numbers(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())


async def delete(story: Story, ke: KnowledgeExtractionClient, job: Job, receipt: Receipt, first: Job) -> None:
    """Delete the cancelled job's record; its receipt and the first job stay."""
    story.chapter("Delete the job")
    story.expect("DELETE has nothing left to clean", None, await ke.delete_job_record(job["id"]))
    try:
        await ke.get_job(job["id"])
        status = 200
    except ApiError as error:
        status = error.status
    story.expect("and then there is no such job", 404, status)
    story.expect("its receipt outlives it", receipt, await ke.get_cleanup(receipt["id"]))
    kept = await _all(ke.iterate_sources(first["id"]))
    story.expect("the first job still has its sources", first["result"]["sources"], len(kept))


async def tell(story: Story, site: Site, stack: DemoStack) -> None:
    """The story, from a running stack to a deleted job."""
    async with KnowledgeExtractionClient(stack.endpoints["api"]) as ke:
        ready = await ke.is_ready()
        story.check("the gateway, and all it needs, is up", ready, stack.endpoints["api"])
        story.aside(f"Temporal's web UI, while this runs: {stack.endpoints['temporal_ui']}")
        first = await crawl(story, ke, site)
        await search(story, ke, site, first)
        second = await cancel_midway(story, ke, site)
        receipt = await clean_up(story, ke, second)
        await delete(story, ke, second, receipt, first)


async def run(story: Story, url: str | None, folder: Path) -> None:
    """Everything between a free machine and a free machine; ended in good order by SIGTERM as by Ctrl-C."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with opened_site(url) as site:
        stack = DemoStack(folder, site.fetch_allow, story.aside)
        try:
            story.chapter("Start a stack of our own: one command, `ke up`")
            story.aside(f"in {folder}")
            async with stack:
                await tell(story, site, stack)
            story.chapter("End the stack")
            story.expect("none of its processes is left", [], stack.alive())
        except (StackFailed, ClientError, CommandFailed, KeError, OSError, TimeoutError) as error:
            story.check("the story was told to its end", False, f"{type(error).__name__}: {error}")  # noqa: FBT003
        finally:
            stack.kill()


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description="Crawl, extract, search, cancel, clean up, delete: all of it checked.")
    parser.add_argument("--site", metavar="URL", help="a real site instead of examples/site; small limits apply")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    options = parser.parse_args(arguments)
    story, folder = Story.on_stdout(), fresh_folder()
    keep = True  # whatever goes wrong, its traces stay
    try:
        asyncio.run(run(story, options.site or None, folder))
        story.summary(WHERE_NEXT)
        keep = options.keep or bool(story.failed)
    except (KeyboardInterrupt, asyncio.CancelledError):
        story.say("Interrupted; the stack was ended.", style="yellow")
        keep = options.keep
        return INTERRUPTED
    finally:
        if keep:
            story.say(f"Data and logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if story.failed else 0


if __name__ == "__main__":
    sys.exit(main())
