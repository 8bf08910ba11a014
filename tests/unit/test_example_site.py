"""The example site against its manifest, by a link walk that shares no code with the product or its server."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest

from examples.serve import read_delays
from ke.web.parse import parse_page

EXAMPLES = Path(__file__).parents[2] / "examples"
SITE = EXAMPLES / "site"
ORIGIN = "http://site.test"


class PageParser(HTMLParser):
    """Collects what a page links to, its ids and its words."""

    def __init__(self, text):
        super().__init__()
        self.links, self.resources, self.ids, self.words = [], [], set(), 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "link":
            self.resources.append(values["href"])
        if "id" in values:
            self.ids.add(values["id"])

    def handle_data(self, data):
        self.words += len(data.split())


@dataclass
class Walk:
    """What a walk from the start page found; ``depths`` holds the pages that answer, by their path."""

    depths: dict[str, int] = field(default_factory=dict)
    parsed: dict[str, PageParser] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    redirects: dict[str, str] = field(default_factory=dict)
    disallowed: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)


def file_of(path):
    return SITE / (path[1:] + "index.html" if path.endswith("/") else path[1:])


def redirects_on_disk():
    lines = (SITE / "_redirects").read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if line and not line.startswith("#")}


def walk_site():
    redirects, walk, queue = redirects_on_disk(), Walk(), [("/", 0)]
    for path, depth in queue:
        if path in walk.depths:
            continue
        if path.startswith("/private/"):
            walk.disallowed.add(path)
        elif path in redirects:
            walk.redirects[path] = redirects[path]
            queue.append((redirects[path], depth))
        elif not file_of(path).is_file():
            walk.broken.add(path)
        else:
            walk.depths[path] = depth
            if path.endswith(".pdf"):
                continue
            page = walk.parsed[path] = PageParser(file_of(path).read_text(encoding="utf-8"))
            for link in page.links:
                url = urldefrag(urljoin(ORIGIN + path, link)).url
                if url.startswith(ORIGIN + "/"):
                    queue.append((urlsplit(url).path, depth + 1))
                else:
                    walk.external.add(url)
    return walk


@pytest.fixture(scope="module")
def walk():
    return walk_site()


@pytest.fixture(scope="module")
def manifest():
    return json.loads((EXAMPLES / "site.json").read_text(encoding="utf-8"))


def test_manifest_counts_equal_the_walk(walk, manifest):
    """Every number of site.json is what a plain walk over the files finds."""
    contents = Counter(sha256(file_of(path).read_bytes()).hexdigest() for path in walk.depths)
    found = {
        "pages": len(walk.depths),
        "sources": len(contents),
        "duplicates": len(walk.depths) - len(contents),
        "broken": len(walk.broken),
        "redirects": len(walk.redirects),
        "disallowed": len(walk.disallowed),
        "external": len(walk.external),
        "max_depth": max(walk.depths.values()),
    }
    assert {name: manifest[name] for name in found} == found


def test_manifest_names_the_special_paths(walk, manifest):
    """The broken, redirected, disallowed and duplicate addresses are those of the manifest, and no others."""
    first, second = manifest["paths"]["duplicates"]
    assert manifest["paths"]["broken"] == sorted(walk.broken)
    assert manifest["paths"]["redirects"] == walk.redirects
    assert manifest["paths"]["disallowed"] == sorted(walk.disallowed)
    assert file_of(first).read_bytes() == file_of(second).read_bytes()
    assert {first, second} <= walk.depths.keys()


def test_every_page_is_linked_within_depth_three(walk):
    """No page of the folder is an orphan, and none is more than three links away from the start page."""
    on_disk = {"/" + file.relative_to(SITE).as_posix() for kind in ("html", "pdf") for file in SITE.rglob(f"*.{kind}")}
    linked = {"/" + file_of(path).relative_to(SITE).as_posix() for path in walk.depths.keys() | walk.disallowed}
    assert linked == on_disk
    assert max(walk.depths.values()) <= 3


def test_every_page_has_one_address(walk):
    """Folders are linked by their slash, never by index.html, so that no page is found twice by accident."""
    assert not [path for path in walk.depths if path.endswith("index.html")]


def test_the_pdf_and_the_slow_page_are_linked(walk, manifest):
    """They are those of the manifest, and the server is told which page is slow."""
    assert [manifest["document"]["page"]] == [path for path in walk.depths if path.endswith(".pdf")]
    assert read_delays(SITE / "_delays") == dict.fromkeys(manifest["paths"]["slow"], 2.0)
    assert set(manifest["paths"]["slow"]) <= walk.depths.keys()


def test_the_scripted_page_says_without_its_script_only_what_it_is(walk, manifest):
    """It is linked, its own text is there to be read, and what its script writes stands nowhere in the file."""
    scripted = manifest["scripted"]
    text = file_of(scripted["page"]).read_text(encoding="utf-8")
    assert scripted["page"] in walk.depths
    assert scripted["words"] not in text
    assert "worked out by its script" in parse_page(text.encode(), "text/html", None, ORIGIN).text


def test_redirects_end_at_a_page(walk):
    """A redirect of the example leads to a page that answers, in one step."""
    assert set(redirects_on_disk().values()) <= walk.depths.keys()


def test_disallowed_page_exists_and_robots_forbid_it(walk):
    """The private page is there to be fetched: only robots.txt keeps a crawler away from it."""
    robots = (SITE / "robots.txt").read_text(encoding="utf-8").splitlines()
    assert "User-agent: *" in robots
    assert [line for line in robots if line.startswith("Disallow:")] == ["Disallow: /private/"]
    assert "Sitemap: {{ORIGIN}}/sitemap.xml" in robots
    assert all(file_of(path).is_file() for path in walk.disallowed)


def test_fragments_and_stylesheets_exist(walk):
    """A link into a page names an id that is there, and every page finds its style sheet."""
    for path, page in walk.parsed.items():
        for link in page.links:
            url, fragment = urldefrag(urljoin(ORIGIN + path, link))
            assert not fragment or fragment in walk.parsed[urlsplit(url).path].ids, (path, link)
        assert [urlsplit(urljoin(ORIGIN + path, link)).path for link in page.resources] == ["/style.css"]


def test_sitemap_lists_each_unique_public_page_once(walk, manifest):
    """The sitemap holds every page that answers, without the copy, the redirect and the private page."""
    text = (SITE / "sitemap.xml").read_text(encoding="utf-8")
    listed = re.findall(r"<loc>\{\{ORIGIN\}\}([^<]+)</loc>", text)
    assert text.count("<loc>") == len(listed)
    assert sorted(listed) == sorted(walk.depths.keys() - {manifest["paths"]["duplicates"][1]})


def test_pages_are_real_prose(walk):
    """Each page has a few hundred words of its own: enough for chunks, entities and a search to mean something."""
    assert {path: page.words for path, page in walk.parsed.items() if not 250 <= page.words <= 500} == {}


def test_questions_point_to_unique_pages(walk, manifest):
    """Eight questions, each answered by another page that has no copy."""
    pages = [question["page"] for question in manifest["questions"]]
    assert len(pages) == len(set(pages)) == 8
    assert set(pages) <= walk.depths.keys() - set(manifest["paths"]["duplicates"])


def test_only_site_files_are_in_the_folder():
    """What is in the folder is served: no notes, no manifest, no tools."""
    names = {file.relative_to(SITE).as_posix() for file in SITE.rglob("*") if file.is_file() and file.suffix != ".html"}
    assert names == {"_delays", "_redirects", "keepers-handbook.pdf", "robots.txt", "sitemap.xml", "style.css"}
