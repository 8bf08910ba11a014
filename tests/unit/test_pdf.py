"""PDFs: text by pages, in parts, within bounds."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from activities import documents
from activities.documents import read_document
from ke.contracts.jobs import Reading
from ke.web import pdf
from ke.web.errors import BrokenDocument, LockedDocument, UnsupportedType
from ke.web.pdf import is_pdf, read_part, to_markdown
from ke.web.response import Response

DATA = Path(__file__).parents[1] / "data" / "pdf"
HANDBOOK = Path(__file__).parents[2] / "examples" / "site" / "keepers-handbook.pdf"


class InlinePool:
    """A twin of the process pool that works at once, and keeps count."""

    def __init__(self):
        self.calls = 0

    async def run(self, function, /, *args):
        self.calls += 1
        return function(*args)


def made(pages):
    """A small PDF with these pages, each a list of lines."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", "", "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for lines in pages:
        text = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 10 Tf 12 TL 10 180 Td {text}ET" if lines else "10 10 50 50 re f"
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
        objects.append(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Resources<</Font<</F1 3 0 R>>>>"
            f"/Contents {len(objects)} 0 R>>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>"
    body, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj{text}endobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\n"
        f"startxref\n{len(body)}\n%%EOF"
    ).encode()


async def read(body, content_type="application/pdf", pool=None):
    response = Response(
        *(
            "http://h/a.pdf",
            "http://h/a.pdf",
            (),
            200,
            content_type,
            None,
            None,
            None,
            None,
            body,
            False,
            len(body),
            0.1,
        )
    )
    return await read_document(pool or InlinePool(), response, Reading.FAST)


async def test_a_pdf_is_markdown_with_a_heading_for_each_page():
    """Title, author and date of the document; lines joined to paragraphs, page numbers left out."""
    page = await read(HANDBOOK.read_bytes())
    assert (page.kind, page.title, page.author) == ("pdf", "A Keeper\u2019s Handbook", "Lights on the Sea")
    assert page.text.startswith(
        "# A Keeper\u2019s Handbook\n\n## Page 1\n\nA Keeper\u2019s Handbook\n\nWritten for this example."
    )
    assert [line for line in page.text.split("\n") if line.startswith("## ")] == [f"## Page {n}" for n in (1, 2, 3)]
    assert (
        "## Page 2\n\nThe lens\n\nA lens is cleaned every morning, with a linen cloth and spirit of wine, by"
        in page.text
    )
    assert page.metadata["pages"] == "3"
    assert len(page.date) == 10


async def test_a_long_pdf_is_read_in_parts(monkeypatch):
    """Each part goes on where the one before it ended, and the last one says so."""
    monkeypatch.setattr(pdf, "PART_S", 0.0)
    pool = InlinePool()
    page = await read(made([[f"This is page {n}."] for n in range(1, 31)]), pool=pool)
    assert pool.calls == 30
    assert page.text.split("\n\n") == [part for n in range(1, 31) for part in (f"## Page {n}", f"This is page {n}.")]
    assert page.title == "This is page 1."
    assert not page.truncated


async def test_a_pdf_over_the_limits_is_cut_and_says_so(monkeypatch):
    """Pages, characters and seconds are bounded; what was read by then is kept."""
    body = made([[f"This is page {n}."] for n in range(20)])
    monkeypatch.setattr(pdf, "MAX_PAGES", 5)
    page = await read(body)
    assert page.text.count("## Page") == 5
    assert (page.truncated, page.metadata["truncated"], page.metadata["pages"]) == (True, "true", "20")
    monkeypatch.setattr(pdf, "MAX_PAGES", 2_000)
    monkeypatch.setattr(pdf, "PART_S", 0.0)
    monkeypatch.setattr(documents, "PDF_S", 0.0)
    page = await read(body)
    assert page.text.count("## Page") == 1
    assert page.truncated
    monkeypatch.setattr(documents, "MAX_CHARS", 40)
    assert len((await read(body)).text) <= 40


async def test_an_empty_page_keeps_the_numbers_of_the_others():
    """A page with a picture only has no heading, and the next one has its own number."""
    page = await read(made([["one"], [], ["three"]]))
    assert page.text == "## Page 1\n\none\n\n## Page 3\n\nthree"


async def test_a_pdf_of_pictures_is_skipped_with_the_reason():
    """There is nothing to read in a scan."""
    with pytest.raises(UnsupportedType, match="no text"):
        await read(made([[], []]))


def test_a_locked_pdf_says_so_and_one_that_opens_is_read():
    """A password to open it is needed; one that only forbids printing is not."""
    with pytest.raises(LockedDocument, match="password"):
        read_part((DATA / "locked.pdf").read_bytes())
    assert read_part((DATA / "owner-locked.pdf").read_bytes()).pages == ("open to read",)


@pytest.mark.parametrize(
    "body",
    [b"", b"%PDF-1.7", b"<html>a login page", b"%PDF-1.4\n" + bytes(range(256)) * 100, HANDBOOK.read_bytes()[200:]],
    ids=["empty", "head", "html", "noise", "no-head"],
)
def test_what_is_no_pdf_is_broken_or_empty(body):
    """Nothing else is raised, whatever the bytes."""
    try:
        part = read_part(body)
    except BrokenDocument:
        return
    assert not any(part.pages)


def test_a_pdf_is_known_by_its_type_or_its_first_bytes():
    """Servers forget the type, or send another one."""
    assert is_pdf(b"", "application/pdf")
    assert is_pdf(b"\n%PDF-1.4", "")
    assert is_pdf(b"%PDF-1.4", "text/html")
    assert not is_pdf(b"<p>%PDF-1.4", "text/html")


def test_marks_of_markdown_in_a_pdf_are_text():
    """A line that looks like a heading does not move the outline."""
    assert read_part(made([["# not a heading", "x"]])).pages[0].startswith("\\# not a heading")
    assert to_markdown("", ["", "b"]) == "## Page 2\n\nb"


def test_bounds_are_put_back():
    """The next task of the process has all its memory again."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    read_part(made([["x"]]))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(
    ("work", "most_s", "ends"),
    [
        ("time.sleep(60)", 0.5, 1),
        ("bytearray(3 << 30)", 30, 7),
        ("pass", 30, 0),
    ],
    ids=["time", "memory", "neither"],
)
def test_bounds_hold(work, most_s, ends):
    """A page that takes too long ends its process; one that wants too much memory does not get it."""
    program = (
        f"import sys, time\nfrom ke.web import pdf\npdf.MAX_PAGE_S = {most_s}\n"
        f"try:\n    with pdf._bounded():\n        {work}\nexcept MemoryError:\n    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, capture_output=True)
    assert done.returncode == ends, done.stderr
