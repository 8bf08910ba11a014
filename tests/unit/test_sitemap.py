import gzip

import pytest

from ke.web import sitemap
from ke.web.errors import BadSitemap
from ke.web.sitemap import Sitemap, parse_sitemap

WHERE = "http://h/sitemap.xml"
NAMESPACE = (
    'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"'
)


def urlset(*entries):
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset {NAMESPACE}>{"".join(entries)}</urlset>'.encode()


def url(loc, more=""):
    return f"<url><loc>{loc}</loc>{more}</url>"


def test_a_urlset_names_pages():
    """In order, canonical, each once; what is no URL is left out."""
    body = urlset(url(" http://h/a#x "), url("http://H:80/b"), url("http://h/a"), url("mailto:x"), url(""), url("/c"))
    assert parse_sitemap(body, WHERE) == Sitemap(urls=("http://h/a", "http://h/b", "http://h/c"))


def test_images_of_a_page_are_not_pages():
    """Only the loc of the entry itself counts."""
    image = "<image:image><image:loc>http://h/pic.png</image:loc></image:image>"
    assert parse_sitemap(urlset(url("http://h/a", image)), WHERE).urls == ("http://h/a",)


def test_an_index_names_sitemaps():
    """They are kept apart from pages."""
    body = f"<sitemapindex {NAMESPACE}><sitemap><loc>http://h/s1.xml.gz</loc></sitemap></sitemapindex>".encode()
    assert parse_sitemap(body, WHERE) == Sitemap(sitemaps=("http://h/s1.xml.gz",))


def test_gzip_is_told_by_its_first_bytes():
    """Whatever the server calls it."""
    assert parse_sitemap(gzip.compress(urlset(url("http://h/a"))), WHERE).urls == ("http://h/a",)


def test_a_plain_list_names_pages():
    """One URL a line; a byte-order mark and blank lines do not matter."""
    assert parse_sitemap("\ufeffhttp://h/a\r\n\nhttp://h/b\n".encode(), WHERE).urls == ("http://h/a", "http://h/b")


def test_an_empty_sitemap_is_a_sitemap():
    """It just names nothing."""
    assert parse_sitemap(urlset(), WHERE) == Sitemap()
    assert parse_sitemap(b"", WHERE) == Sitemap()


@pytest.mark.parametrize(
    "body",
    [
        b"<urlset><url><loc>http://h/a</loc>",
        b"<html><body>Not found</body></html>",
        b"<!doctype html><p>x<br></html>",
        b"hello world",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"\x1f\x8bnonsense",
        gzip.compress(b"http://h/a\n" * 100, mtime=0)[:30],
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_sitemap_is_refused(body):
    """With an error that says so, and never with an empty list."""
    with pytest.raises(BadSitemap) as refused:
        parse_sitemap(body, WHERE)
    assert not refused.value.retryable


def test_a_billion_laughs_stay_untold():
    """The parser gives up on them before they take memory."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE u [<!ENTITY l0 "ha">{laughs}]><urlset {NAMESPACE}>{url("http://h/&l9;")}</urlset>'
    with pytest.raises(BadSitemap, match="entity"):
        parse_sitemap(bomb.encode(), WHERE)


def test_no_file_is_read_into_a_url():
    """External entities are not resolved."""
    body = f'<!DOCTYPE u [<!ENTITY f SYSTEM "file:///etc/hostname">]><urlset {NAMESPACE}>{url("http://h/&f;")}</urlset>'
    assert set(parse_sitemap(body.encode(), WHERE).urls) <= {"http://h/"}


def test_a_sitemap_is_cut_at_its_limit():
    """The 50,001st URL is not taken, and the result says so."""
    body = "\n".join(f"http://h/{n}" for n in range(50_001)).encode()
    found = parse_sitemap(body, WHERE)
    assert (len(found.urls), found.truncated) == (50_000, True)
    found = parse_sitemap(urlset(*(url(f"http://h/{n}") for n in range(50_001))), WHERE)
    assert (len(found.urls), found.truncated) == (50_000, True)


def test_a_gzip_bomb_is_refused(monkeypatch):
    """Decompression stops at the limit."""
    monkeypatch.setattr(sitemap, "MAX_SITEMAP_BYTES", 100_000)
    with pytest.raises(BadSitemap, match="100,000"):
        parse_sitemap(gzip.compress(b" " * 50_000_000), WHERE)
