import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context

import pytest

from ke.web import links, metadata, parse
from ke.web.errors import UnsupportedType
from ke.web.parse import ParsedPage, parse_page

URL = "http://h/dir/page.html"


def paragraphs(subject):
    return "".join(
        f"<p>This is sentence number {n} of an article about {subject} in the mountains.</p>" for n in range(30)
    )


ARTICLE = paragraphs("weather")


def html(markup, **more):
    return parse_page(markup.encode() if isinstance(markup, str) else markup, "text/html", more.get("charset"), URL)


def test_links_are_canonical_in_document_order_and_each_once():
    """From <a> and <area>, http and https only, without fragments of the page itself."""
    page = html(
        "<a href=b.html>1</a><a href='/c?x=1#top'>2</a><a href='b.html#x'>3</a><a href='mailto:x@y'>4</a>"
        "<a href='javascript:x()'>5</a><a href='#here'>6</a><a href='https://OTHER:443/z'>7</a><a name=x>8</a>"
        "<map><area href=../up></map><a href='http://u:p@h/'>9</a><a href='\n split\n.html '>10</a><a href>11</a>"
    )
    assert page.links == (
        "http://h/dir/b.html",
        "http://h/c?x=1",
        "https://other/z",
        "http://h/up",
        "http://h/dir/split.html",
    )


def test_the_base_element_moves_relative_links():
    """The first one with an address counts; one that is none does not."""
    assert html("<base href='/other/'><base href='/x/'><a href=b>b</a>").links == ("http://h/other/b",)
    assert html("<base href='mailto:x'><a href=b>b</a>").links == ("http://h/dir/b",)


def test_links_marked_nofollow_are_kept_apart():
    """A link that is somewhere else unmarked is an ordinary one."""
    page = html(
        "<a rel='external NoFollow' href=a>a</a><a href=b>b</a><a rel=ugc href=c>c</a><a rel=nofollow href=b>b</a>"
    )
    assert page.links == ("http://h/dir/b",)
    assert page.nofollow_links == ("http://h/dir/a", "http://h/dir/c")


@pytest.mark.parametrize(
    ("content", "nofollow", "noindex"),
    [
        ("noindex", False, True),
        ("NOFOLLOW, noarchive", True, False),
        ("none", True, True),
        ("index, follow", False, False),
    ],
)
def test_directives_for_robots_are_recorded(content, nofollow, noindex):
    """From the page's own meta element, in any case."""
    page = html(f"<meta name=Robots content='{content}'><a href=b>b</a>")
    assert (page.nofollow, page.noindex) == (nofollow, noindex)
    assert page.links == ("http://h/dir/b",)


def test_the_canonical_link_is_recorded():
    """And not acted upon."""
    assert html("<link rel='canonical' href='/real#x'>").canonical == "http://h/real"
    assert html("<link rel='canonical' href='mailto:x'>").canonical is None
    assert html("<p>none").canonical is None


def test_metadata_comes_with_an_article():
    """Title, author, date, language, description."""
    page = html(
        "<html lang=en-GB><head><title> The\n title </title><meta name=author content='Ada Lovelace'>"
        "<meta name=description content='On weather.'><meta property='article:published_time' content='2024-05-06'>"
        f"</head><body><article><h1>Head</h1>{ARTICLE}</article></body></html>"
    )
    assert page.title == "The title"
    assert (
        page.metadata.items()
        >= {
            "author": "Ada Lovelace",
            "date": "2024-05-06",
            "language": "en-gb",
            "description": "On weather.",
        }.items()
    )


@pytest.mark.parametrize(
    ("markup", "title"),
    [
        ("<h1>Only a heading</h1>", "Only a heading"),
        ("<meta property='og:title' content='Open graph'><p>x", "Open graph"),
        ("<svg><title>icon</title></svg><h1>Real</h1>", "Real"),
        ("<p>nothing", ""),
    ],
)
def test_the_title_is_found_where_there_is_one(markup, title):
    """<title>, else the first heading, else Open Graph."""
    assert html(markup).title == title


def test_boilerplate_around_an_article_is_left_out():
    """What the reader is for."""
    noise = "".join(f"<li><a href='/{n}'>Menu entry number {n} with several words</a></li>" for n in range(60))
    page = html(f"<html><body><div id=menu><ul>{noise}</ul></div><div class=post>{ARTICLE}</div></body></html>")
    assert "sentence number 29" in page.text
    assert "Menu entry" not in page.text


def test_documentation_keeps_its_headings_and_code():
    """Nested boxes, as DocBook writes them, do not cost structure."""
    sections = "".join(
        f"<div class=sect><div class=titlepage><div><div><h2 class=title>Section {n}</h2></div></div></div>"
        f"{paragraphs(f'thing {n}')}<pre class=programlisting>SELECT <em>{n}</em>\n  FROM t;</pre></div>"
        for n in range(3)
    )
    page = html(f"<html><body><div class=navheader>Prev Next</div>{sections}</body></html>")
    assert [line for line in page.text.split("\n") if line.startswith("#")] == [f"## Section {n}" for n in range(3)]
    assert "```\nSELECT 1\n  FROM t;\n```" in page.text
    assert "Prev" not in page.text


def test_a_page_that_the_reader_finds_nothing_on_is_written_out():
    """A list of links or a table of contents is never empty."""
    entries = "".join(f"<dt><a href='{n}.html'>Chapter {n}: a title of some length</a></dt>" for n in range(50))
    page = html(f"<html><body><div class=toc><dl>{entries}</dl></div></body></html>")
    assert "Chapter 49" in page.text


def test_text_and_markdown_stay_as_they_are():
    """Markdown gives its first line as the title."""
    page = parse_page(b"# Title\r\n\r\ntext\x00 <b>\r\n", "text/markdown", None, URL)
    assert (page.kind, page.title, page.text) == ("markdown", "Title", "# Title\n\ntext <b>")
    page = parse_page("naïve".encode("latin-1"), "text/plain", "latin-1", URL)
    assert (page.kind, page.title, page.text) == ("text", "", "naïve")


@pytest.mark.parametrize("content_type", ["application/pdf", "image/png", "application/json", "text/css"])
def test_other_types_are_refused_by_name(content_type):
    """The error carries the type, also through a process pool."""
    with pytest.raises(UnsupportedType, match=content_type) as refused:
        parse_page(b"x", content_type, None, URL)
    assert pickle.loads(pickle.dumps(refused.value)).content_type == content_type


@pytest.mark.parametrize(
    ("body", "kind"), [(b"\n<!doctype html><p>x", "html"), (b"plain words", "text"), (b"", "text")]
)
def test_a_type_that_is_missing_is_told_from_the_body(body, kind):
    """As browsers do."""
    assert parse_page(body, "", None, URL).kind == kind


@pytest.mark.parametrize("body", [b"%PDF-1.7", b"\x00\x01\x02"])
def test_a_binary_body_without_a_type_is_refused(body):
    """It is no text, whatever the server forgot to say."""
    with pytest.raises(UnsupportedType):
        parse_page(body, "", None, URL)


def everything(page):
    return "".join(str(getattr(page, field.name)) for field in fields(ParsedPage))


def test_no_nul_and_no_surrogate_reaches_a_store():
    """In no field, however they are written in the page."""
    page = html(
        b"<html lang='e\x00n'><title>a\x00b&#0;</title><meta name=author content='x&#xD800;\x00y'><p>t\x00e&#xDFFF;xt "
        b"\xed\xa0\x80</p><a href='/a&#0;b'>x</a><pre>c\x00d</pre>"
    )
    everything(page).encode("utf-8")
    assert "\x00" not in everything(page)
    assert page.title.startswith("ab")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        random.Random(1).randbytes(50_000),
        b"<" * 100_000,
        b"<a" * 100_000,
        b"<!--" * 50_000,
        b"<div>" * 10_000 + b"text",
        b"<div>" * 100_000,
        b"<svg>" + b"<td>" * 20_000,
        b"<table><tr><td>" * 3_000,
        b"<b><p>" * 3_000,
        b"<select><option>" * 10_000,
        b'<a href="' + b"x" * 1_000_000 + b'">y</a>',
        b"<p>" + b"&amp;" * 100_000,
        b"<frameset><frame src=a></frameset>",
        b'<?xml version="1.0" encoding="utf-16"?><p>x',
        b"<base href='http://[::1'><a href='http://[::1'>x</a>",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_no_page_breaks_the_parser(body):
    """Garbage and attacks give a page, however empty."""
    assert isinstance(html(body), ParsedPage)


def test_a_page_over_the_limits_is_cut_and_says_so(monkeypatch):
    """Bytes, links and the length of titles are bounded."""
    monkeypatch.setattr(parse, "MAX_PARSED_BYTES", 1000)
    monkeypatch.setattr(links, "MAX_LINKS", 10)
    assert html("<p>x" * 1000).truncated
    page = html("".join(f"<a href={n}>x</a>" for n in range(20)))
    assert page.truncated
    assert len(page.links) == 10
    assert len(html(f"<title>{'t' * 900}</title>").title) == metadata.MAX_TITLE_CHARS


def test_a_huge_page_is_written_out_without_the_reader():
    """The reader's time grows faster than the page."""
    page = html("<h1>Head</h1>" + "<p>some words of text</p>" * 12_000)
    assert page.reader == "density"
    assert page.text.startswith("# Head\n\nsome words")


def test_it_runs_in_a_process_pool():
    """Arguments and result are plain data."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        page = pool.submit(parse_page, b"<title>T</title><a href=b>x</a>", "text/html", None, URL).result(timeout=120)
    assert (page.title, page.links) == ("T", ("http://h/dir/b",))
