import pytest

from ke.web.robots import RobotsRules, parse_robots

WHERE = "http://h/robots.txt"


def rules(text, agent="ke"):
    return parse_robots(text.encode() if isinstance(text, str) else text, agent, WHERE)


def test_the_group_of_the_crawler_goes_before_the_group_of_all():
    """Whose name is there is not bound by the star."""
    found = rules("User-agent: *\nDisallow: /\n\nUser-agent: ke\nDisallow: /private\nCrawl-delay: 1.5\n")
    assert found.allowed("http://h/a")
    assert not found.allowed("http://h/private/a")
    assert found.crawl_delay_s == 1.5


def test_the_longest_rule_wins():
    """RFC 9309: the most specific match decides, with its wildcards."""
    found = rules("User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.pdf$\n")
    assert not found.allowed("http://h/a/c")
    assert found.allowed("http://h/a/b/c")
    assert not found.allowed("http://h/x.pdf")
    assert found.allowed("http://h/x.pdf?y")


def test_sitemaps_are_canonical_and_each_once():
    """They may be relative, and what is no URL is left out."""
    found = rules("Sitemap: /s.xml\nSitemap: http://H:80/s.xml\nSitemap: ftp://h/x\nSitemap: https://other/s.xml\n")
    assert found.sitemaps == ("http://h/s.xml", "https://other/s.xml")


def test_an_empty_file_allows_all():
    """So does one that is garbage."""
    for text in ("", "\ufeff", "<html>not found</html>", b"\x00\xff\xfe" * 100):
        found = rules(text)
        assert found.allowed("http://h/a")
        assert found.crawl_delay_s is None


def test_rules_without_a_file_say_only_whether_it_could_be_read():
    """Unreachable forbids everything, absent nothing."""
    assert RobotsRules(agent="ke", reachable=True, reason="").allowed("http://h/a")
    assert not RobotsRules(agent="ke", reachable=False, reason="").allowed("http://h/a")


@pytest.mark.parametrize(
    ("written", "kept_s"),
    [("0.5", 0.5), ("10", 10.0), ("100000", 3600.0), ("1e9", 3600.0), ("-5", None), ("inf", None)],
)
def test_crawl_delay_is_kept_to_within_reason(written, kept_s):
    """A site may ask for as much as a job may set for itself, and what is no delay is none."""
    assert rules(f"User-agent: *\nCrawl-delay: {written}\n").crawl_delay_s == kept_s
