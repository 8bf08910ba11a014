"""A fetched document to what it says, in the process pool: an HTML page in one task, a PDF in as many as it takes."""

import asyncio
import time
from typing import Final

from ke.contracts.errors import KeError
from ke.contracts.jobs import Reading
from ke.runtime.pool import CpuPool
from ke.web.errors import UnsupportedType
from ke.web.parse import ParsedPage, parse_page
from ke.web.pdf import MAX_CHARS, PDF_TYPE, PdfPart, is_pdf, read_part, to_markdown
from ke.web.response import Response

PARSE_TIMEOUT_S: Final = 60.0
"""Seconds for reading one document, waiting for a free process included."""
PDF_S: Final = 40.0
"""Seconds after which the rest of a PDF's pages is left out."""


class Unreadable(KeError):
    """The page could not be read."""

    code = "unreadable"


async def read_document(pool: CpuPool, response: Response, reading: Reading) -> ParsedPage:
    """Reads what was fetched.

    Raises:
        UnsupportedType: Of a type that is not read, or a PDF without text.
        BrokenDocument, LockedDocument: A PDF that cannot be opened.
        Unreadable: It took too long.
        WorkLost: The process that read it died, which a document may bring about too.
    """
    try:
        async with asyncio.timeout(PARSE_TIMEOUT_S):
            if is_pdf(response.body, response.content_type):
                return await _read_pdf(pool, response.body)
            return await pool.run(
                parse_page, response.body, response.content_type, response.charset, response.final_url, reading
            )
    except TimeoutError as error:
        raise Unreadable(f"The page could not be read within {PARSE_TIMEOUT_S:g} s.") from error


async def _read_pdf(pool: CpuPool, body: bytes) -> ParsedPage:
    began = time.monotonic()
    part: PdfPart = await pool.run(read_part, body)
    first, texts = part, list(part.pages)
    while part.next_page is not None and time.monotonic() - began < PDF_S and sum(map(len, texts)) < MAX_CHARS:
        part = await pool.run(read_part, body, part.next_page)
        texts += part.pages
    if not any(texts):
        raise UnsupportedType("the PDF has no text: its pages may be pictures", content_type=PDF_TYPE)
    title = first.title or next(text for text in texts if text).split("\n", 1)[0][:200]
    return ParsedPage(
        kind="pdf",
        title=title,
        text=to_markdown(first.title, texts)[:MAX_CHARS],
        reader="pages",
        author=first.author,
        date=first.date,
        page_count=first.page_count,
        truncated=len(texts) < first.page_count,
    )
