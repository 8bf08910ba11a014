"""Bytes of a page to text, by the rules of browsers (WHATWG Encoding) and without codecs that are none."""

import codecs
import re
from typing import Final

_BOMS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_SAME_AS: Final = {
    # What pages call these are supersets in fact.
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_KNOWN: Final = frozenset(
    {
        *("utf-8", "utf-16-le", "utf-16-be", "utf-16", "cp866", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic"),
        *("gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949", "cp874"),
        *(f"cp{number}" for number in range(1250, 1259)),
        *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    }
)
"""The encodings of the web. Python's other codecs (punycode, unicode_escape, zlib) are not charsets."""
_META: Final = re.compile(rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]{1,40})""", re.IGNORECASE)
_XML: Final = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([a-zA-Z0-9_:.-]{1,40})""")
_PRESCAN_BYTES: Final = 4096
_UNWANTED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def decode(body: bytes, charset: str | None, *, markup: bool) -> str:
    """Decodes a page: by its byte-order mark, its header, its own declaration, as UTF-8, as windows-1252.

    Never fails: what is no text in the chosen encoding becomes U+FFFD.

    Args:
        body: The page.
        charset: As the Content-Type header names it.
        markup: Whether to look for a declaration in the page.
    """
    for bom, name in _BOMS:
        if body.startswith(bom):
            return body[len(bom) :].decode(name, errors="replace")
    named = _codec(charset)
    if named is None and markup:
        head = body[:_PRESCAN_BYTES]
        declared = _META.search(head) or _XML.search(head)
        named = _codec(declared[1].decode("ascii")) if declared else None
        if named is not None and named.startswith("utf-16"):
            named = "utf-8"  # a declaration that can be read as ASCII is not in UTF-16
    if named is not None:
        return body.decode(named, errors="replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        # One bad byte, or a character cut at the end, does not make a UTF-8 page another one.
        mostly = error.start > 0 and any(byte > 0x7F for byte in body[: error.start])  # noqa: PLR2004 - end of ASCII
        return body.decode("utf-8" if mostly else "cp1252", errors="replace")


def _codec(label: str | None) -> str | None:
    if not label or not label.isascii():
        return None
    try:
        name = codecs.lookup(label.strip().strip("\"'")).name
    except (LookupError, ValueError):
        return None
    name = _SAME_AS.get(name, name)
    return name if name in _KNOWN else None


def clean(text: str) -> str:
    """Takes out what no store and no model can use: NUL and other controls, lone surrogates."""
    return _UNWANTED.sub("", text)
