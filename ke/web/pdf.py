"""A PDF to Markdown with a heading for each page, in parts that are short enough for a process pool.

PDFium is the reader of Chrome. It is native code on bytes of strangers, so a part runs within bounds: a process that
takes too long for one page, or too much memory, ends, and its caller learns that the work is lost.
"""

import contextlib
import faulthandler
import os
import re
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ke.web.charset import clean
from ke.web.errors import BrokenDocument, LockedDocument
from ke.web.metadata import line

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

PDF_TYPE: Final = "application/pdf"
MAX_PAGES: Final = 2_000
"""Pages of one PDF that are read."""
MAX_CHARS: Final = 5_000_000
"""Characters of one PDF that are kept."""
PART_S: Final = 0.1
"""Seconds after which a part begins no further page."""
MAX_PAGE_S: Final = 20.0
"""Seconds for one part: a page that takes longer costs the process its life."""
MAX_MEMORY_BYTES: Final = 1 << 30
"""Address space that a part may take on top of what its process has."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_MARKUP: Final = re.compile(r"^(?=#{1,6} |`{3,}|~{3,})")
_DATE: Final = re.compile(r"D?:?((?:19|20)\d\d)([01]\d)([0-3]\d)")
_HYPHENS: Final = ("\x02", "\ufffe", "\xad")
"""How PDFium gives a hyphen that only the line's end brought about."""
_LOCKED: Final = frozenset({4, 5})
"""PDFium's FPDF_ERR_PASSWORD and FPDF_ERR_SECURITY."""
_FULL_LINE: Final = 0.75
"""The share of a page's usual line from which a line goes on in the next one."""


@dataclass(frozen=True, slots=True)
class PdfPart:
    """Some pages of a PDF."""

    pages: tuple[str, ...]
    """The text of each."""
    next_page: int | None
    """Where the next part begins, from 0; None: this is the last one."""
    page_count: int
    """Of the whole document."""
    title: str = ""
    author: str = ""
    date: str = ""
    """When it was made, YYYY-MM-DD."""


def is_pdf(body: bytes, content_type: str) -> bool:
    """Whether this is a PDF, by its type or by how it begins."""
    return content_type == PDF_TYPE or body[:1024].lstrip().startswith(b"%PDF-")


def read_part(body: bytes, first_page: int = 0) -> PdfPart:
    """Reads pages from one on, for about a tenth of a second.

    Args:
        body: The whole PDF.
        first_page: From 0.

    Raises:
        LockedDocument: It is encrypted, and cannot be opened without a password.
        BrokenDocument: It is no PDF, or a damaged one.
    """
    began = time.monotonic()
    with _bounded(), _opened(body) as pdf:
        count = len(pdf)
        end = min(count, MAX_PAGES)
        pages: list[str] = []
        number = first_page
        while number < end and (not pages or time.monotonic() - began < PART_S):
            pages.append(_page_text(pdf, number))
            number += 1
        said = _metadata(pdf) if first_page == 0 else {}
    return PdfPart(tuple(pages), number if number < end else None, count, **said)


def to_markdown(title: str, pages: list[str]) -> str:
    """All pages as one text: each under a heading with its number, so that a chunk of it names its page."""
    parts = [f"# {title}"] if title else []
    for number, text in enumerate(pages, start=1):
        if text:
            parts += [f"## Page {number}", text]
    return "\n\n".join(parts)


@contextlib.contextmanager
def _opened(body: bytes) -> "Iterator[PdfDocument]":
    import pypdfium2  # noqa: PLC0415 - only pool processes load the library, and only those that get a PDF

    try:
        pdf = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        if error.err_code in _LOCKED:
            raise LockedDocument from None
        raise BrokenDocument(f"The PDF cannot be read: {error}") from None
    try:
        yield pdf
    finally:
        pdf.close()


def _page_text(pdf: "PdfDocument", number: int) -> str:
    """The text of a page; empty for one that is damaged, as the others may be sound."""
    try:
        page = pdf[number]
        text = str(page.get_textpage().get_text_bounded())
    except RuntimeError:  # which PdfiumError is
        return ""
    page.close()  # and what was opened of it
    return _paragraphs(text, str(number + 1))


def _paragraphs(text: str, number: str) -> str:
    """Joins the lines of a page to paragraphs: a line that is about full goes on in the next one."""
    lines = [line_.strip(" \t\0") for line_ in _LINE_END.split(text)]
    lines = [line_ for n, line_ in enumerate(lines) if line_ != number or n not in {0, len(lines) - 1}]
    lengths = [len(line_) for line_ in lines if line_]
    usual = statistics.quantiles(lengths, n=10)[-1] if len(lengths) > 1 else 0.0
    paragraphs: list[str] = []
    goes_on = False
    for found in lines:
        if not found:
            goes_on = False
            continue
        hyphen = goes_on and paragraphs[-1].endswith(_HYPHENS)
        if hyphen:
            paragraphs[-1] = paragraphs[-1][:-1] + found
        elif goes_on:
            paragraphs[-1] += f" {found}"
        else:
            paragraphs.append(_MARKUP.sub(r"\\", found))
        goes_on = found.endswith(_HYPHENS) or len(found) >= _FULL_LINE * usual
    return clean("\n\n".join(paragraphs))


def _metadata(pdf: "PdfDocument") -> dict[str, str]:
    found = pdf.get_metadata_dict()
    made = _DATE.match(found.get("CreationDate", ""))
    return {
        "title": line(found.get("Title", "")),
        "author": line(found.get("Author", "")),
        "date": f"{made[1]}-{made[2]}-{made[3]}" if made else "",
    }


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bounds the time and memory of native code: what goes over ends the process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(MAX_PAGE_S, exit=True, file=nowhere)
        try:
            size = _address_space()
            if size is not None and before[0] == resource.RLIM_INFINITY:
                resource.setrlimit(resource.RLIMIT_AS, (size + MAX_MEMORY_BYTES, before[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
            faulthandler.cancel_dump_traceback_later()


def _address_space() -> int | None:
    """Bytes of address space that this process has; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return None
    return pages * resource.getpagesize()
