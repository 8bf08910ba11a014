from selectolax.lexbor import LexborHTMLParser

from ke.web.nesting import MAX_DEPTH, tame

PAD = "<br>" * 2000


def depth_of(html):
    node, depth = LexborHTMLParser(html).body, 0
    while node is not None:
        node, depth = node.first_child, depth + 1
    return depth


def test_an_ordinary_page_passes_untouched():
    """Also a long one with unclosed paragraphs, list items and inline SVG."""
    for part in ("<p>text", "<div><b>x</b></div>", "<ul><li>a<li>b</ul>", "<svg><path d='1'/></svg>", "<a name=x>t"):
        page = part * 5000
        assert tame(page) is page
    svg = "<svg>" + "<path d='1'/>" * 10_000 + "</svg>"
    assert tame(svg) is svg


def test_nesting_is_cut_and_text_kept():
    """However the elements are opened."""
    for opening in ("<div>", "<div/>", "<span>", "<div a='<'>", "<x-y>", "<div></nothing>", "<svg><td>"):
        html = tame(opening * 20_000 + "the text")
        assert depth_of(html) <= 3 * MAX_DEPTH
        assert "the text" in html


def test_what_follows_a_deep_part_keeps_its_place():
    """End tags of dropped elements go with them."""
    html = tame("<div>" * 10_000 + "</div>" * 10_000 + "<h1>after</h1>")
    heading = LexborHTMLParser(html).css_first("h1")
    assert heading.parent.tag == "body"


def test_formatting_that_would_be_repeated_too_often_goes():
    """A few hundred open <b> before many paragraphs would become millions of elements."""
    html = tame("".join(f"<b id={n}>" for n in range(1000)) + "<p>text" * 10_000)
    assert "<b" not in html
    assert html.count("<p>") == 10_000
