# ruff: noqa: RUF001 - texts of other scripts are what this is about
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


SCRIPTS = {
    "shift_jis": "これは日本語の文章です。天気が良いので、散歩に行きましょう。",
    "euc_jp": "これは日本語の文章です。天気が良いので、散歩に行きましょう。",
    "gbk": "这是一篇关于天气的文章。今天天气很好，我们去散步吧。",
    "big5": "這是一篇關於天氣的文章。今天天氣很好，我們去散步吧。",
    "euc_kr": "이것은 날씨에 관한 글입니다. 오늘은 날씨가 좋아서 산책을 갑시다.",
    "windows-1251": "Это статья о погоде. Сегодня хорошая погода, пойдём гулять.",
    "koi8-r": "Это статья о погоде. Сегодня хорошая погода, пойдём гулять.",
    "windows-1253": "Αυτό είναι ένα άρθρο για τον καιρό. Σήμερα ο καιρός είναι καλός.",
    "windows-1252": "C’est l’été : où êtes-vous, cher élève ? Der Bär läuft über die Straße. ¿Qué pasó, señor?",
}


@pytest.mark.parametrize("charset", SCRIPTS)
@pytest.mark.parametrize("times", [1, 300])
def test_a_page_that_declares_nothing_is_told_by_its_script(charset, times):
    """Short or long, with markup around it; of the Latin ones windows-1252 is the one."""
    head = "<html><head><title>x</title><style>body {}</style></head><body class='a b'>"
    text = f"{head}<p>{SCRIPTS[charset] * times}</p>"
    assert decode(text.encode(charset), None, markup=True) == text


@pytest.mark.parametrize("charset", ["shift_jis", "gb2312", "euc-kr"])
def test_declared_encodings_are_read_as_their_supersets(charset):
    """In a meta element, in either form, and in the header."""
    text = (
        f"<meta http-equiv=content-type content='text/html;charset={charset}'>"
        + {
            "shift_jis": "①髙﨑",
            "gb2312": "朱镕基",
            "euc-kr": "똠방각하",
        }[charset]
    )
    body = text.encode({"shift_jis": "cp932", "gb2312": "gbk", "euc-kr": "cp949"}[charset])
    assert decode(body, None, markup=True) == text
    assert decode(body, charset, markup=True) == text


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_known_by_its_mark_and_by_its_header(charset):
    """A mark goes before what the page or the server says."""
    page = "<meta charset=utf-8><p>naïve – 漢字"
    mark = {"utf-16": b"", "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}[charset]
    assert decode(mark + page.encode(charset), "iso-8859-1", markup=True) == page
    assert decode(page.encode("utf-16-le"), "utf-16le", markup=True) == page
