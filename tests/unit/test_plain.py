"""Markdown as people read it, and where its words stood."""

import time

import pytest

from ke.extraction.plain import Plain

PAGE = """# The [lamp](http://site.example/lamp)s

See [the **first** lamp](https://site.example/a_*b*_c), **bold and *italic* too**, `**raw**` and *this*.
> quoted *words*
- an item

| name | lit |
|---|---|
| Bell *Rock* | 1811 |

```python
f(**a, **b)  # [no](http://link.example/)
# no heading
```
after **it**"""


def test_marks_are_left_out_and_code_stays() -> None:
    """Words of links, headings, quotes, tables and emphasis are left; in code everything but the marks around it."""
    assert Plain.of(PAGE).text == (
        "The lamps\n\nSee the first lamp, bold and italic too, **raw** and this.\nquoted words\n- an item\n\n"
        "name | lit\nBell Rock | 1811\n\nf(**a, **b)  # [no](http://link.example/)\n# no heading\nafter it"
    )


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("", ""),
        ("2 * 3 * 4, 2**3**4, f(*args, **kwargs)", "2 * 3 * 4, 2**3**4, f(*args, **kwargs)"),
        ("[an \\[escaped\\] word](https://site.example/)", "an [escaped] word"),
        ("[a]: x, a[i](y), ![shown](http://site.example/y.png)", "[a]: x, a[i](y), shown"),
        ("cut `off and **off", "cut `off and **off"),
        ("the end of code\n```\nand **more**", "the end of code\nand **more**"),
        ("~~~\n**raw**\n~~~\n**read**", "**raw**\nread"),
        ("**[all](http://site.example/) of it**", "all of it"),
        ("| a \\| b |  | c |\n|---|---|---|\n|  | **d** | e \\| |", "a | b |  | c\nd | e |"),
        ("| a\n| b \\|\n|  |\nc | d |", "| a\nb |\n\nc | d |"),
        ("```\n| a |\n```", "| a |\n"),
        ("snake_case __init__ #5 #!", "snake_case __init__ #5 #!"),
    ],
)
def test_what_is_no_mark_stays(markdown: str, text: str) -> None:
    """A chunk may begin and end anywhere, and what is not surely a mark of Markdown is a word."""
    assert Plain.of(markdown).text == text


@pytest.mark.parametrize("markdown", [PAGE, PAGE[30:], "**a** [b](http://c.example/) `d`"])
def test_each_character_knows_where_it_stood(markdown: str) -> None:
    """There and back it is the same place; a place in what is left out is that of what follows, or the end."""
    plain = Plain.of(markdown)
    for number, character in enumerate(plain.text):
        assert markdown[plain.origin(number)] == character
        assert plain.place(plain.origin(number)) == number
    places = [plain.place(number) for number in range(len(markdown) + 1)]
    assert places == sorted(places)
    assert places[-1] == len(plain.text)


@pytest.mark.parametrize(
    "mark", ["**a ", "`a ", "*a ", "[a](http://x ", "\\[", "[\\", "|---", "| ", "\\|", "> ", "```\n", "#"]
)
def test_nothing_but_marks_is_read_in_a_moment(mark: str) -> None:
    """A page cannot hold the gateway up."""
    started_s = time.process_time()
    Plain.of(mark * (20_000 // len(mark)))
    assert time.process_time() - started_s < 1


@pytest.mark.parametrize("line", ["~" * 20_000 + "`", " > " * 7_000 + "``", "```" + " " * 20_000 + "`", "[" * 20_000])
def test_line_that_is_nearly_a_mark_is_read_in_a_moment(line: str) -> None:
    """One character that it must not have, at its end, is no reason to try each part of it."""
    started_s = time.process_time()
    assert Plain.of(line).text == line
    assert time.process_time() - started_s < 1
