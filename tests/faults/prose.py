"""Pages of made-up English with names in it, of any length: something for a crawl and an extraction to work on."""

import random
from pathlib import Path

BRANCHES = 8

_WHO = ("Ada Lovelace", "Robert Stevenson", "Grace Hopper", "the Northern Lighthouse Board", "Alan Turing", "IBM")
_DID = ("rebuilt", "described", "measured", "paid for", "wrote about", "visited", "doubted", "inherited", "repaired")
_WHAT = ("the tower", "an old lamp", "three engines", "the harbour wall", "a table of numbers", "the keepers' house")
_WHERE = ("in London", "near Edinburgh", "at Bell Rock", "in New York", "on the Isle of May", "off Cornwall", "at home")
_WHEN = ("in 1811", "on 3 May 1843", "after the storm", "in the autumn", "within two years", "every Sunday", "at last")


def prose(chance: random.Random, characters: int) -> str:
    """At least so many characters, in sentences and paragraphs."""
    paragraphs, length = [], 0
    while length < characters:
        sentences = [
            " ".join(chance.choice(words) for words in (_WHO, _DID, _WHAT, _WHERE, _WHEN)) + "."
            for _ in range(chance.randint(3, 8))
        ]
        paragraphs.append(" ".join(sentences))
        length += len(paragraphs[-1]) + 2
    return "\n\n".join(paragraphs)


def write_site(folder: Path, *, pages: int, characters: int, seed: int, prefix: str = "page") -> None:
    """Writes pages that form a tree of links; `index.html` is its root when the prefix is `page`."""
    chance = random.Random(seed)
    for number in range(pages):
        children = [n for n in range(BRANCHES * number + 1, BRANCHES * number + 1 + BRANCHES) if n < pages]
        links = "".join(f'<li><a href="{prefix}-{n}.html">{prefix} {n}</a></li>' for n in children)
        length = chance.randint(characters // 4, characters * 7 // 4)
        body = "".join(f"<p>{paragraph}</p>" for paragraph in prose(chance, length).split("\n\n"))
        (folder / page_name(number, prefix)).write_text(
            f"<!doctype html><html lang=en><title>{prefix} {number}</title><body><main><h1>{prefix} {number}</h1>"
            f"{body}<ul>{links}</ul></main></body></html>"
        )


def page_name(number: int, prefix: str = "page") -> str:
    """The file of a page."""
    return "index.html" if number == 0 and prefix == "page" else f"{prefix}-{number}.html"
