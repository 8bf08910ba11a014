"""Scrapy that only fetches and follows, in a process of its own; prints pages and seconds as JSON.

`python -m tests.bench.peer_scrapy tutorial|seen URL CONCURRENCY`. `tutorial` follows links as Scrapy's tutorial does,
and leaves what was seen to Scrapy; `seen` keeps a set of its own, so that a link that is known costs no request
object. The clock runs from the spider's opening to its closing: the start of the interpreter is not counted.
"""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import HtmlResponse, Response


class TutorialSpider(scrapy.Spider):
    """Follows every link of every page, as the tutorial's last spiders do."""

    name = "tutorial"

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        if isinstance(response, HtmlResponse):
            # Its `follow_all(css="a")` breaks off a page at the first address of mail.
            yield from response.follow_all(css="a:not([href^='mailto:'])", callback=self.parse)


class SeenSpider(scrapy.Spider):
    """Follows what it has not seen, and asks Scrapy not to look again."""

    name = "seen"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen = set(self.start_urls)
        self._site = urljoin(self.start_urls[0], "/")

    async def start(self) -> AsyncIterator[scrapy.Request]:
        for url in self.start_urls:
            yield scrapy.Request(url, dont_filter=True)

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        if not isinstance(response, HtmlResponse):
            return
        for href in response.css("a::attr(href)").getall():
            url = urldefrag(urljoin(response.url, href)).url
            # Where Scrapy is not to look for duplicates, it does not look for other sites either.
            if url not in self._seen and url.startswith(self._site):
                self._seen.add(url)
                yield scrapy.Request(url, dont_filter=True)


SPIDERS = {spider.name: spider for spider in (TutorialSpider, SeenSpider)}


def main(name: str, url: str, concurrency: int) -> None:
    """Crawls the site and prints what it took."""
    process = CrawlerProcess(
        {
            "ROBOTSTXT_OBEY": True,
            "CONCURRENT_REQUESTS": concurrency,
            "CONCURRENT_REQUESTS_PER_DOMAIN": concurrency,
            "DOWNLOAD_DELAY": 0,
            "LOG_LEVEL": "CRITICAL",
            "TELNETCONSOLE_ENABLED": False,
        }
    )
    crawler = process.create_crawler(SPIDERS[name])
    process.crawl(crawler, start_urls=[url], allowed_domains=[urlsplit(url).hostname])
    process.start()
    assert crawler.stats is not None
    stats = crawler.stats.get_stats()
    pages = stats.get("downloader/response_status_count/200", 0)
    print(json.dumps({"pages": pages, "seconds": stats["elapsed_time_seconds"]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
