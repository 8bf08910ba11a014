import pytest

from ke.contracts.errors import InvalidInput
from ke.contracts.jobs import CrawlLimits, CrawlScope
from ke.web.errors import BadPattern, BadUrl
from ke.web.urls import MAX_URL_CHARS, Scope, canonicalize, host_key, origin

HOSTS = frozenset({"h:80"})


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://EXample.COM:80/a/../b/./c#part", "http://example.com/b/c"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/", "https://example.com:8443/"),
        ("http://h/%c3%a9?q=%c3", "http://h/%C3%A9?q=%C3"),
        ("http://h/é ü", "http://h/%C3%A9%20%C3%BC"),
        ("http://münchen.de/", "http://xn--mnchen-3ya.de/"),
        ("http://h/a?", "http://h/a"),
        ("http://h/a?#", "http://h/a"),
        ("http://h/a%3F", "http://h/a%3F"),
        ("http://0x7f.1:8000/", "http://127.0.0.1:8000/"),
        ("http://[0:0::1]:8000/", "http://[::1]:8000/"),
        ("  http://h/x \n", "http://h/x"),
    ],
)
def test_a_url_has_one_spelling(url, canonical):
    """Scheme, host, default port, dots, percent codes, empty query and fragment are brought to one form."""
    assert canonicalize(url) == canonical
    assert canonicalize(canonical) == canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://h/a", "http://h/a/"),
        ("http://h/a", "http://h/A"),
        ("http://h/?a=1&b=2", "http://h/?b=2&a=1"),
        ("http://h/a%2Fb", "http://h/a/b"),
        ("http://h/?a=%26", "http://h/?a=&"),
        ("http://h/", "https://h/"),
        ("http://h/", "http://h:8080/"),
        ("http://h/", "http://www.h/"),
        ("http://h//a", "http://h/a"),
        ("http://h/a?b", "http://h/a?b="),
    ],
)
def test_two_pages_are_never_merged(one, other):
    """What a server may answer differently stays two URLs."""
    assert canonicalize(one) != canonicalize(other)


@pytest.mark.parametrize(
    ("href", "canonical"),
    [
        ("b.html#x", "http://h/dir/b.html"),
        ("/b", "http://h/b"),
        ("//other/b", "http://other/b"),
        ("?q=1", "http://h/dir/a.html?q=1"),
        ("\n b\n.html ", "http://h/dir/b.html"),
        ("", "http://h/dir/a.html"),
        ("..\\c", "http://h/c"),
    ],
)
def test_a_link_is_read_as_browsers_read_it(href, canonical):
    """A relative link starts at its base; white space around it and line breaks within it do not count."""
    assert canonicalize(href, "http://h/dir/a.html") == canonical


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://h/x", "only http and https"),
        ("javascript:alert(1)", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("foo/bar", "not an absolute URL"),
        ("", "not an absolute URL"),
        ("http://", "no host"),
        ("http://?x", "no host"),
        ("https://:80/", "no host"),
        ("http://h:99999/", "port"),
        ("http://h:x/", "port"),
        ("http://h:0/", "port is 0"),
        ("http://user@h/", "user name or password"),
        ("http://user:secret@h/", "user name or password"),
        ("http://h/a\x00b", "control character"),
        ("http://h/a\nb", "control character"),
        ("http://h/\x7f", "control character"),
        ("http://a b/", "host is not valid"),
        ("http://[::1/", "host is not valid"),
        ("http://h/\ud800", "not valid Unicode"),
        ("http://h/" + "a" * MAX_URL_CHARS, "2,048 characters"),
        ("http://h/" + "é" * 1000, "when encoded"),
    ],
)
def test_what_is_no_fetchable_url_is_refused_with_its_reason(url, says):
    """Each kind of bad URL gets its own words, as invalid input that is not tried again."""
    with pytest.raises(BadUrl, match=says) as refused:
        canonicalize(url)
    assert isinstance(refused.value, InvalidInput)
    assert not refused.value.retryable
    assert len(refused.value.message) < 400
    assert "secret" not in refused.value.message


def test_a_huge_url_is_refused_before_it_is_parsed():
    """100 KB and 10 MB take the same time: nothing reads them."""
    for length in (100_000, 10_000_000):
        with pytest.raises(BadUrl, match="characters"):
            canonicalize("http://h/" + "a" * length)


@pytest.mark.parametrize(
    ("url", "key"),
    [("http://H/x", "h:80"), ("https://h/x", "h:443"), ("http://h:8000", "h:8000"), ("http://[::1]:9/", "[::1]:9")],
)
def test_host_key_names_host_and_port(url, key):
    """The default port is written out."""
    assert host_key(url) == key


def test_origin_is_scheme_host_and_port():
    """One robots.txt speaks for an origin."""
    assert origin("https://h:8443/a/b?c") == "https://h:8443"
    assert origin("http://h:80/a") == "http://h"


def refusal(url, depth=1, *, hosts=HOSTS, max_depth=5, **scope):
    return Scope(CrawlScope(**scope), CrawlLimits(max_depth=max_depth), hosts).refusal(url, depth)


def test_a_crawl_stays_on_its_hosts_unless_told_otherwise():
    """Another host or port is not followed; http and https on their default ports are one site."""
    assert refusal("http://h/a") is None
    assert refusal("https://h/a") is None
    assert refusal("http://h:8080/a") == "on another host"
    assert refusal("http://www.h/a") == "on another host"
    assert refusal("http://www.h/a", same_host=False) is None


def test_a_crawl_stops_at_its_depth():
    """The deepest page is the one at max_depth."""
    assert refusal("http://h/a", 2, max_depth=2) is None
    assert refusal("http://h/a", 3, max_depth=2) == "deeper than 2"
    assert refusal("http://h/a", 0, max_depth=0) is None


def test_patterns_choose_links():
    """With include patterns one must match; an exclude pattern that matches wins."""
    assert refusal("http://h/docs/a", include=("/docs/", "/api/")) is None
    assert refusal("http://h/blog/a", include=("/docs/",)) == "matches no include pattern"
    assert "exclude" in refusal("http://h/docs/old/a", include=("/docs/",), exclude=("/old/",))
    assert refusal("http://h/docs/a", exclude=(r"\.pdf$",)) is None


@pytest.mark.parametrize("pattern", ["[", "(", "*a", "(?P<x>", "a" * 513, "(?<=a*b"])
def test_a_bad_pattern_is_refused_when_the_scope_is_made(pattern):
    """Not in the middle of a crawl."""
    with pytest.raises(BadPattern):
        Scope(CrawlScope(exclude=(pattern,)), CrawlLimits(), HOSTS)


def test_too_many_patterns_are_refused():
    """A list of patterns is bounded."""
    with pytest.raises(BadPattern, match="64"):
        Scope(CrawlScope(include=("a",) * 65), CrawlLimits(), HOSTS)


@pytest.mark.parametrize("pattern", ["(a+)+$", "a{1000000000}", "(x+x+)+y"])
def test_a_catastrophic_pattern_is_matched_like_any_other(pattern):
    """A pattern that would keep a backtracking engine busy for ever says at once that it does not match."""
    scope = Scope(CrawlScope(include=(pattern,)), CrawlLimits(), HOSTS)
    assert scope.refusal("http://h/" + "a" * 1000 + "!", 1) == "matches no include pattern"


def test_a_pattern_that_would_take_all_memory_is_refused():
    """Nested repeats are bounded before anything is built of them."""
    with pytest.raises(BadPattern, match="repetition"):
        Scope(CrawlScope(include=("(a{1000}){2000}",)), CrawlLimits(), HOSTS)
