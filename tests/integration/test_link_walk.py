from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

from ke.contracts.jobs import CrawlLimits, CrawlScope
from ke.web.parse import parse_page
from ke.web.urls import Scope, host_key
from tests.integration.web_site import fetcher, site

PAGES = {
    "/": "<a href=a/>a</a> <a href='./b.html#x'>b</a> <a href='//127.0.0.1:1/'>away</a> <a href='mailto:x@y'>m</a>",
    "/a/": "<base href='/c/'><a href=one.html>1</a><a href='../b.html'>b</a><area href='two.html?x=1&amp;y=2'>",
    "/b.html": "<A HREF = '/'>up</A><a href='?page=2'>next</a><!-- <a href=/comment.html>no</a> --><a>none</a>",
    "/c/one.html": "<script>document.write('<a href=/script.html>no</a>')</script><a href='/d%20d.html'>d</a>",
    "/c/two.html": "<div>" * 300 + "<a href='/deep.html'>deep</a>",
    "/d d.html": "<p><a href='%64%20d.html'>d</a><a href=javascript:x()>no</a><a href=/missing.html>x</a>",
    "/deep.html": "<a href='/deep.html/../b.html'>b</a>",
}


class Links(HTMLParser):
    """The standard library's view of a page's links."""

    def __init__(self, url):
        super().__init__()
        self.base = url
        self.found = []

    def handle_starttag(self, tag, attrs):
        href = dict(attrs).get("href")
        if tag == "base" and href:
            self.base = urljoin(self.base, href)
        elif tag in {"a", "area"} and href:
            self.found.append(urldefrag(urljoin(self.base, href))[0])


async def walk(web_, start, links_of):
    """Follows links breadth first and gives what was reached, with its depth."""
    scope = Scope(CrawlScope(), CrawlLimits(max_depth=10), frozenset({host_key(start)}))
    reached, queue = {start: 0}, [start]
    while queue:
        url = queue.pop(0)
        got = await web_.fetch(url)
        if got.status != 200:
            continue
        for link in links_of(got):
            if link.startswith("http") and link not in reached and scope.refusal(link, reached[url] + 1) is None:
                reached[link] = reached[url] + 1
                queue.append(link)
    return reached


async def test_a_crawl_reaches_what_an_independent_walk_reaches():
    """The same URLs at the same depths, over a site with bases, areas, queries, comments, scripts and a dead link."""

    def ours(got):
        return parse_page(got.body, got.content_type, got.charset, got.final_url).links

    def independent(got):
        parser = Links(got.final_url)
        parser.feed(got.body.decode())
        return parser.found

    async with site() as local, fetcher(local.key) as web_:
        for path, body in PAGES.items():
            local.serve(path, f"<!doctype html><body>{body}", Content_Type="text/html; charset=utf-8")
        start = f"{local.url}/"
        found, expected = await walk(web_, start, ours), await walk(web_, start, independent)
    assert found == expected
    assert max(found.values()) == 4
    assert {url.removeprefix(local.url) for url in found} == {
        *("/", "/a/", "/b.html", "/b.html?page=2", "/c/one.html", "/c/two.html?x=1&y=2"),
        *("/d%20d.html", "/%64%20d.html", "/missing.html", "/deep.html"),
    }
