"""What the readers make of the labelled pages of real sites, and of what they are known to get wrong."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from ke.contracts.jobs import Reading
from ke.web import content
from ke.web.parse import parse_page
from tests.bench.reading_quality import (
    load,
    mean_f1,
    ours,
    score,
    structure_recall,
    tokens,
    trafilatura_fast,
    trafilatura_markdown,
)

URL = "http://news.test/2024/05/06/weather.html"


@pytest.fixture(scope="module")
def pages():
    return load()


@pytest.fixture(scope="module")
def thorough(pages):
    return [score(ours(Reading.THOROUGH)(page.body), page) for page in pages]


@pytest.fixture(scope="module")
def fast(pages):
    return [score(ours(Reading.FAST)(page.body), page) for page in pages]


@pytest.fixture(scope="module")
def peer(pages):
    return [score(trafilatura_fast(page.body), page) for page in pages]


def test_the_set_has_real_layouts_and_full_gold(pages):
    """At least six layouts of two pages or more, each page with text and structure to lose."""
    layouts = [page.layout for page in pages]
    assert len(pages) >= 20
    assert len(set(layouts)) >= 6
    assert all(layouts.count(layout) >= 2 for layout in layouts)
    assert all(len(tokens(page.text)) >= 60 for page in pages)
    for kind, least in (("headings", 200), ("code", 100), ("items", 200), ("rows", 100)):
        assert sum(len(page.structure[kind]) for page in pages) >= least


def test_thorough_reading_is_better_than_trafilatura(thorough, peer, pages):
    """In the mean, and on no page worse by more than a hundredth."""
    assert mean_f1(thorough) >= max(0.985, mean_f1(peer))
    worse = {p.name: (ours_.f1, its.f1) for p, ours_, its in zip(pages, thorough, peer, strict=True)}
    assert not {name: pair for name, pair in worse.items() if pair[0] < pair[1] - 0.01}


def test_thorough_reading_keeps_more_structure_than_trafilatura(thorough, pages):
    """Of every kind at least as much as its Markdown has, and nearly all headings, code and table rows."""
    markdown = [score(trafilatura_markdown(page.body), page) for page in pages]
    for kind, floor in (("headings", 0.98), ("code", 0.98), ("items", 0.8), ("rows", 0.98)):
        assert structure_recall(thorough, kind) >= max(floor, structure_recall(markdown, kind)), kind


def test_fast_reading_is_good_enough(fast, peer):
    """Where pages say what their content is, or it is dense, it needs no model of the page."""
    assert mean_f1(fast) >= max(0.98, mean_f1(peer))
    for kind, floor in (("headings", 0.98), ("code", 0.98), ("items", 0.65), ("rows", 0.98)):
        assert structure_recall(fast, kind) >= floor, kind


def article(inner):
    """A page of news as they are laid out, which is made up: menus, boxes, an article, comments."""
    menu = "".join(f"<li><a href='/s{n}'>Section number {n}</a></li>" for n in range(20))
    related = "".join(f"<li><a href='/r{n}'>Another story with a long headline, number {n}</a></li>" for n in range(8))
    return (
        f"<html><head><title>Storm</title></head><body><div id=top><ul class=menu>{menu}</ul></div>"
        f"<div class=page><div class=story><h1>Storm over the coast</h1>{inner}</div>"
        f"<div class=related-stories><h3>Related</h3><ul>{related}</ul></div>"
        "<div id=comments><h3>Comments</h3><p>What a storm, I have never seen anything like it.</p></div></div>"
        "<div class=footer><p>All rights reserved by the publisher of this page, 2024.</p></div></body></html>"
    ).encode()


PARAGRAPHS = "".join(f"<p>The storm came in the night number {n}, and the boats stayed at home.</p>" for n in range(12))


@pytest.mark.parametrize("reading", list(Reading))
def test_what_stands_around_an_article_is_left_out(reading):
    """Menus, related stories, comments and the footer; the article is whole."""
    page = parse_page(article(PARAGRAPHS), "text/html", None, URL, reading)
    assert page.text.startswith("# Storm over the coast")
    assert page.text.count("The storm came") == 12
    assert not [word for word in ("Section", "Another story", "What a storm", "rights") if word in page.text]


@pytest.mark.parametrize("reading", list(Reading))
def test_what_trafilatura_loses_is_put_back(reading):
    """Quotation marks of <q>, words in <nobr>, a list of spans, the sentence in a box of its own."""
    inner = (
        f"{PARAGRAPHS}<p>The harbour master said <q>never before</q> to the <nobr>night crew</nobr>.</p>"
        "<ul><li><span>one boat sank</span></li><li><span>two were saved</span></li></ul>"
        f"<div><div><pre>wind = 12</pre></div></div>{PARAGRAPHS}"
    )
    text = parse_page(article(inner), "text/html", None, URL, reading).text
    assert "said “never before” to the night crew." in text
    assert "- one boat sank\n- two were saved" in text
    assert "```\nwind = 12\n```" in text


@pytest.mark.parametrize("reading", list(Reading))
def test_links_of_the_text_are_absolute(reading):
    """Canonical, as the crawl knows them; those in headings are words alone."""
    inner = f"<h2><a href=a>Part</a></h2>{PARAGRAPHS}<p>See <a href='../x?b=1#top'>the <b>map</b></a>.</p>{PARAGRAPHS}"
    text = parse_page(article(inner), "text/html", None, URL, reading).text
    assert "## Part\n" in text
    assert "See [the **map**](http://news.test/2024/05/x?b=1)." in text


@pytest.mark.parametrize("reading", list(Reading))
def test_a_title_in_a_box_of_its_own_is_kept(reading):
    """As DocBook puts it; a byline may stand between it and the content."""
    page = f"<body><div class=head><h1>The title</h1></div><div>Ada, in May</div><div>{PARAGRAPHS}</div></body>"
    assert parse_page(page.encode(), "text/html", None, URL, reading).text.startswith("# The title\n\n")


def test_an_opinion_that_leaves_out_half_is_not_taken(monkeypatch):
    """What trafilatura finds of a page that is clearly more is a part of it: density is asked instead."""
    monkeypatch.setattr(content, "_main_text", lambda _: "The storm came in the night number 0")
    half = "".join(f"<div><p>Section {n}: a few plain words about boats.</p></div>" for n in range(9))
    page = f"<body><div><div><p>The storm came in the night number 0</p><p>And more.</p></div>{half}</div></body>"
    read = parse_page(page.encode(), "text/html", None, URL)
    assert read.reader == "density"
    assert read.text.count("plain words") == 9


def test_a_page_that_is_nearly_all_content_needs_no_opinion(monkeypatch):
    """Neither a menu that is marked as one nor a line of links under the text makes it doubtful."""
    monkeypatch.setattr(content, "_main_text", lambda _: pytest.fail("trafilatura was asked"))
    page = f"<body><nav>{'Menu ' * 99}</nav><div><h1>Boats</h1>{PARAGRAPHS}</div><a href=/next>Next</a></body>"
    assert parse_page(page.encode(), "text/html", None, URL).text.count("The storm came") == 12


def test_a_page_of_the_news_is_asked_about(monkeypatch):
    """Also one that declares its content: there are comments and links to other stories in that."""
    opinions = []
    monkeypatch.setattr(content, "_main_text", lambda html: opinions.append(html) or "")
    body = article(PARAGRAPHS)
    parse_page(body, "text/html", None, URL)
    parse_page(body.replace(b"<body>", b"<body><main>").replace(b"</body>", b"</main></body>"), "text/html", None, URL)
    assert len(opinions) == 2


def test_a_menu_above_a_short_page_is_left_out(monkeypatch):
    """Where trafilatura takes all of a page, what is above its first heading goes if it is links and remarks."""
    menu = "".join(f"<li><a href=/{n}>Item {n}</a></li>" for n in range(4))
    links = "<ul><li><a href=/a>One of the parts</a></li><li><a href=/b>Another of the parts</a></li></ul>"
    monkeypatch.setattr(content, "_main_text", lambda html: LexborHTMLParser(html).body.text(separator=" "))
    page = f"<p>Small and fast.</p><ul>{menu}</ul><h1>The parts</h1>{links}"
    assert parse_page(page.encode(), "text/html", None, URL).text.startswith("# The parts")
    told = f"<p>{'What is above a heading and no remark stays. ' * 3}</p><ul>{menu}</ul><h1>The parts</h1>{links}"
    assert parse_page(told.encode(), "text/html", None, URL).text.startswith("What is above")


def test_scripts_make_no_page_too_large_for_an_opinion():
    """What is no text is taken out first: a half of what a page of the news has, and more than the limit on some."""
    scripts = "<script>let boats = '<i>1</i>';</script>" * 20_000
    picture = f"<img src='data:image/png;base64,{'A' * content.MAX_READER_CHARS}'>"
    page = article(PARAGRAPHS).replace(b"<body>", f"<body>{scripts}{picture}".encode())
    read = parse_page(page, "text/html", None, URL)
    assert read.reader == "main"
    assert read.text.count("The storm came") == 12


@pytest.mark.parametrize("reading", list(Reading))
def test_a_declared_content_that_is_empty_is_no_trap(reading):
    """Pages that fill `<main>` by script, or have the text elsewhere, are read from the body."""
    page = b"<body><main></main><div>" + PARAGRAPHS.encode() + b"</div></body>"
    assert parse_page(page, "text/html", None, URL, reading).text.count("The storm came") == 12


@pytest.mark.parametrize("reading", list(Reading))
def test_a_page_named_as_noise_is_read_all_the_same(reading):
    """Classes such as `sidebar-layout` or `comments` around everything would leave nothing: the whole is kept."""
    page = b"<body class='comments'><div class='widget'>" + PARAGRAPHS.encode() + b"</div></body>"
    assert parse_page(page, "text/html", None, URL, reading).text.count("The storm came") == 12


@pytest.mark.parametrize(
    ("head", "author", "date"),
    [
        ("<meta property='article:published_time' content='2024-03-02T10:00:00Z'>", "", "2024-03-02"),
        (
            "<meta name=DC.creator content='Ada'><meta name=citation_publication_date content=20240302>",
            "Ada",
            "2024-03-02",
        ),
        (
            """<script type='application/ld+json'>{"@graph": [{"@type": "NewsArticle", "datePublished": "2024-03-02",
            "author": [{"name": "Ada"}, {"name": "Bob"}]}]}</script>""",
            "Ada, Bob",
            "2024-03-02",
        ),
        ("<script type='application/ld+json'>{broken</script>", "", "2024-05-06"),
        ("<meta name=date content='yesterday'><meta name=author content='https://x.test/ada'>", "", "2024-05-06"),
        ("<meta name=date content='2024-02-31'>", "", "2024-05-06"),
    ],
)
def test_author_and_date_are_what_the_page_declares(head, author, date):
    """Meta elements, then JSON-LD, then the article's own marks, then a date in the URL."""
    page = parse_page(f"<head>{head}</head><p>x".encode(), "text/html", None, URL)
    assert (page.author, page.date) == (author, date)


def test_author_and_date_are_read_off_an_article():
    """A byline and a time element, where nothing is declared."""
    page = parse_page(
        b"<article><p class=byline>By Ada Lovelace</p><time datetime='2023-01-02T00:00'>long ago</time></article>",
        "text/html",
        None,
        URL,
    )
    assert (page.author, page.date) == ("Ada Lovelace", "2023-01-02")
