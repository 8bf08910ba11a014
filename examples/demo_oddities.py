"""Two oddities of the example site that a crawl has to deal with: a PDF, and a page that is slow."""

from examples.demo_site import OwnSite, path_of
from examples.demo_story import Story
from ke.client import KnowledgeExtractionClient
from ke.client_types import Job

HITS = 5


async def check_oddities(story: Story, ke: KnowledgeExtractionClient, own: OwnSite, job: Job) -> None:
    """Ask something that only the PDF says, and see what the server was asked while it kept one request waiting."""
    document = own.manifest["document"]
    hits = await ke.search(document["question"], job_ids=[job["id"]], limit=HITS)
    headings = [hit["heading"] for hit in hits if path_of(hit["url"]) == document["page"]]
    named = any(heading.endswith(document["heading"]) for heading in headings)
    story.check("a hit in the PDF names its page", named, headings[0] if headings else "no hit")
    (slow,) = own.manifest["paths"]["slow"]
    asked = [record for record in own.server.requests if path_of(record.path) == slow]
    began = asked[0].monotonic_s if asked else 0.0
    meanwhile = sum(0 < record.monotonic_s - began < own.server.slow[slow] for record in own.server.requests)
    story.check("while the slow page was awaited, others were asked for", meanwhile > 0, f"{meanwhile} requests")
