import pytest
from selectolax.lexbor import LexborHTMLParser

from ke.web.markdown import content_of, document, write

LINKS = {"/x": "http://h/x", "y(1)": "http://h/y(1)"}


def md(html):
    return document(write(content_of(LexborHTMLParser(html)), LINKS).blocks)


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<h1>A</h1><h3>B <i>c</i></h3><p>d", "# A\n\n### B *c*\n\nd"),
        ("<p>one\n   two</p><p>three<br>four</p>", "one two\n\nthree four"),
        ("<p>a <b>b</b> <em>c</em> <code>d e</code><b></b></p>", "a **b** *c* `d e`"),
        ("<code><i>x</i>=<b>y</b></code>", "`x=y`"),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", "- a\n- b\n  - c\n- d"),
        ("<ol><li>a<li>b</ol>", "1. a\n2. b"),
        ("<ul><li><p>a</p><p>b</p></ul>", "- a\n\n  b"),
        ("<dl><dt>term<dd>meaning</dl>", "term\n\nmeaning"),
        ("<pre>\n  x = <b>1</b>\n\n  y\n</pre>", "```\n  x = 1\n\n  y\n```"),
        ("<blockquote><p>a</p><p>b</p></blockquote>c", "> a\n\n> b\n\nc"),
        ("<table><tr><th>a<th>b|c<tr><td>1<td><p>2</p><p>3</p></table>", "| a | b\\|c |\n|---|---|\n| 1 | 2 3 |"),
        ("<table><caption>T</caption><tr><td>a<td>b<tr><td>c</table>", "**T**\n\n| a | b |\n|---|---|\n| c |  |"),
        ("<table><tr><td><h2>layout</h2><p>x</p><td><ul><li>y</ul></table>", "## layout\n\nx\n\n- y"),
        ("<table><tr><td><table><tr><td>1<td>2</table></table>", "| 1 | 2 |\n|---|---|"),
        ("a<div>b<div>c</div>d</div>e", "a\n\nb\n\nc\n\nd\n\ne"),
        ("<p>see <a href='/x'>this</a>.", "see [this](http://h/x)."),
        ("<p>see<a href='y(1)'> [this]\n one </a>.", "see [\\[this\\] one](http://h/y%281%29) ."),
        ("<p><a href='#a'>here</a> <a href='/x'> </a><a>named</a>", "here named"),
        ("<ul><li><a href='/x'><code>f()</code></a>", "- [`f()`](http://h/x)"),
        ("<p><code>a <a href='/x'>b</a></code>", "`a b`"),
        ("<h2><a href='/x'>T</a></h2>", "## T"),
        ("<a href='/x'><div>block</div></a>", "block"),
        ("<table><tr><td><a href='/x'>1</a><td>2</table>", "| [1](http://h/x) | 2 |\n|---|---|"),
        ("<p>He said <q>no</q>: “never”.", "He said “no”: “never”."),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````"),
        ("<table><tr><td>one<td>two<ul><li>x</ul></table>", "one\n\ntwo\n\n- x"),
        ("", ""),
        ("<script>x</script><style>y</style><template>z</template>", ""),
    ],
)
def test_structure_becomes_markdown(html, markdown):
    """Headings, paragraphs, lists, quotes, tables, code and links, each in its notation."""
    assert md(html) == markdown


def test_what_is_around_the_content_is_left_out():
    """Navigation, footers, forms' controls and what is hidden."""
    html = (
        "<nav>n</nav><div class='navheader x'>n</div><div role=navigation>n</div><p hidden>h</p><p>text</p>"
        "<p style='display: none'>h</p><button>b</button><footer>f</footer><h2>T<a class=headerlink>¶</a></h2>"
    )
    assert md(html) == "text\n\n## T"


def test_a_page_names_its_content():
    """<main> before a single <article> before the body; of several articles none is the content."""
    assert md("<p>x</p><main><p>m</p></main>") == "m"
    assert md("<p>x</p><article><p>a</p></article>") == "a"
    assert md("<p>x</p><article>a</article><article>b</article>") == "x\n\na\n\nb"


def test_any_nesting_is_written():
    """The walk does not recurse."""
    for tag in ("div", "b", "ul><li", "blockquote", "table><tr><td"):
        assert "text" in md(f"<{tag}>" * 3000 + "text")
