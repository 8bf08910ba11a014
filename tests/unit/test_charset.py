import codecs

import pytest

from ke.web.charset import clean, decode

RUSSIAN = "Привет, мир"


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (RUSSIAN.encode(), None),
        (codecs.BOM_UTF8 + RUSSIAN.encode(), "windows-1251"),
        (codecs.BOM_UTF16_LE + RUSSIAN.encode("utf-16-le"), "utf-8"),
        (codecs.BOM_UTF16_BE + RUSSIAN.encode("utf-16-be"), None),
        (RUSSIAN.encode("cp1251"), "Windows-1251"),
        (RUSSIAN.encode("koi8-r"), '"koi8-r"'),
    ],
)
def test_a_mark_goes_before_a_header_and_a_header_before_a_guess(body, charset):
    """The byte-order mark is surest; without anything it is UTF-8."""
    assert decode(body, charset, markup=False) == RUSSIAN


@pytest.mark.parametrize(
    "head",
    ["<meta charset=windows-1251>", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">'],
)
def test_a_page_may_declare_its_charset(head):
    """In markup only, and a header goes before it."""
    page = head + RUSSIAN
    assert decode(page.encode("cp1251"), None, markup=True) == page
    assert decode(page.encode(), "utf-8", markup=True) == page


def test_xml_may_declare_its_charset():
    """As XHTML does."""
    page = f'<?xml version="1.0" encoding="windows-1251"?><html>{RUSSIAN}'
    assert decode(page.encode("cp1251"), None, markup=True) == page


def test_latin_1_means_windows_1252():
    """As in every browser: pages that say ISO-8859-1 hold curly quotes."""
    assert decode(b"\x93x\x94", "iso-8859-1", markup=False) == "“x”"
    assert decode(b"\xe9\x80", None, markup=False) == "é€"


def test_one_bad_byte_does_not_make_a_utf_8_page_another_one():
    """It alone is lost."""
    assert decode("één ".encode() + b"\xff", None, markup=False) == "één �"


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "unicode_escape", "zlib", "rot13", "utf-7", "x" * 10_000, "é", ""]
)
def test_python_codecs_that_are_no_charsets_are_ignored(charset):
    """They are slow, or decode to something else than text."""
    assert decode(b"a\\u0041+AGE-", charset, markup=False) == "a\\u0041+AGE-"


@pytest.mark.parametrize("charset", [None, "utf-8", "utf-16", "shift_jis", "big5", "gb18030", "euc-kr", "iso-2022-jp"])
def test_any_bytes_decode(charset):
    """Nothing raises, whatever the bytes."""
    assert isinstance(decode(bytes(range(256)) * 10, charset, markup=True), str)


def test_clean_takes_out_what_postgres_refuses():
    """NUL, controls and lone surrogates go; tabs, line breaks and all scripts stay."""
    assert clean("a\x00b\x1bc\ud800d\tf\né😀") == "abcd\tf\né😀"
