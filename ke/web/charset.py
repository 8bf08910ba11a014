"""Bytes of a page to text, by the rules of browsers (WHATWG Encoding) and without codecs that are none.

A page that declares nothing and is not UTF-8 is guessed at, as browsers do: most are windows-1252, and those of another
script are told by it.
"""

import codecs
import re
from typing import Final

from charset_normalizer import from_bytes

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
    "koi8_r": "koi8-r",
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
_GUESSED_BYTES: Final = 16_384
"""What is looked at of a page that declares nothing."""
_GUESSED: Final = ["cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256"]
_TAG: Final = re.compile(rb"<(?:script|style)\b.{0,4000}?</|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_MIN_GUESSED: Final = 12
"""Bytes beyond ASCII that a guess needs."""
_OF_SCRIPT: Final = 0.4
"""The share of letters that are not ASCII in a page of another script, at least."""
_MOSTLY: Final = 10
"""Good characters beyond ASCII for each bad one in a page that is UTF-8 after all."""
_UNWANTED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def decode(body: bytes, charset: str | None, *, markup: bool) -> str:
    """Decodes a page: by its byte-order mark, its header, its own declaration, as UTF-8, as what its bytes look like.

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
        return body.decode("utf-8" if mostly and _is_nearly_utf8(body) else _guess(body), errors="replace")


def _is_nearly_utf8(body: bytes) -> bool:
    """Whether hardly a byte is out of place."""
    text = body[:_GUESSED_BYTES].decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    return bad <= max(1, sum(map(_is_foreign, text)) // _MOSTLY)


def _is_foreign(character: str) -> bool:
    return character > "\x7f"


def _guess(body: bytes) -> str:
    """The encoding of a page that declares none: of another script than Latin, or windows-1252."""
    sample = _TAG.sub(b" ", body[:_GUESSED_BYTES])
    if sum(byte > 0x7F for byte in sample) < _MIN_GUESSED:  # noqa: PLR2004 - end of ASCII
        return "cp1252"
    best = from_bytes(sample, cp_isolation=_GUESSED).best()
    text = str(best) if best is not None else ""
    if best is None or sum(map(_is_foreign, text)) < _OF_SCRIPT * sum(map(str.isalpha, text)):
        return "cp1252"  # accents here and there: all that a Latin alphabet needs
    return _SAME_AS.get(best.encoding, best.encoding)


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
