"""A small site with each of the cases in which pages are counted in different ways."""

import shutil
from pathlib import Path

PDF = Path(__file__).parents[2] / "examples" / "site" / "keepers-handbook.pdf"
LAMP = "<title>The lamp</title><main><h1>The lamp</h1><p>Colza oil burned in the lamp until paraffin came.</p></main>"
PAGES = {
    "index.html": """<title>Home</title><main><p>Where it begins.</p>
        <a href=lamp.html>the lamp</a> <a href=more.html#part>more</a> <a href="more.html">more again</a>
        <a href=gone.html>gone</a> <a href=handbook.pdf>a PDF</a> <a href=tower.png>a picture</a>
        <a href="list.html?by=name">by name</a> <a href="list.html?by=year">by year</a> <a href=list.html>a list</a>
        <a href=old.html>moved</a> <a href=away.html>moved away</a> <a href=lost.html>moved to nowhere</a>
        <a href=ring-1.html>in a circle</a> <a href=rooms>a folder</a>
        <a href="mailto:keeper@example.com">mail</a> <a href="https://example.com/">another site</a>
        <a href="private/log.html">forbidden</a> <a rel=nofollow href=unloved.html>not to be followed</a>
        <!-- <a href=comment.html>no link</a> --><script>"<a href=script.html>no link</a>"</script></main>""",
    "lamp.html": LAMP,
    "more.html": """<title>More</title><link rel=canonical href=/index.html><main><p>It names the home page.</p>
        <a href=copies/1.html>copies</a>
        <a href=quiet.html>not indexed</a> <a href=shy.html>follows nothing</a></main>""",
    "lamp-printed.html": f"<link rel=canonical href=/lamp.html><meta name=print content=1>{LAMP}",
    "list.html": "<title>A list</title><p>One, two, three.</p>",
    "new.html": "<title>Moved here</title><p>It was elsewhere.</p>",
    "rooms/index.html": "<title>Rooms</title><p>Of the keepers.</p><a href=kitchen.html>the kitchen</a>",
    "rooms/kitchen.html": "<title>The kitchen</title><base href=/copies/><p>Two stoves.</p><a href=3.html>a copy</a>",
    "quiet.html": "<title>Quiet</title><meta name=robots content=noindex><p>Psst.</p><a href=found.html>found</a>",
    "found.html": "<title>Found</title><p>By a page that is not kept.</p>"
    # Far from its canonical page: of two that are read at the same time both are kept where this one is stored first.
    "<a href=lamp-printed.html>the lamp, to be printed</a>",
    "shy.html": "<title>Shy</title><meta name=robots content=nofollow><p>No further.</p><a href=unseen.html>x</a>",
    "private/log.html": "<title>Log</title><p>Nobody's business.</p>",
    "unloved.html": "<title>Unloved</title><p>Nobody links here in earnest.</p>",
    "unseen.html": "<title>Unseen</title><p>Nobody comes here.</p>",
    "robots.txt": "User-agent: *\nDisallow: /private/\n",
    "_redirects": "/old.html /new.html\n/away.html https://example.com/\n/lost.html /nowhere.html 302\n"
    "/ring-1.html /ring-2.html\n/ring-2.html /ring-1.html\n",
}
COPIES = 4


def write_cut(folder: Path) -> None:
    """Writes the site."""
    copy = "<title>A copy</title><p>The same in every folder.</p>" + "".join(
        f"<a href={number}.html>{number}</a>" for number in range(1, COPIES + 1)
    )
    pages = PAGES | {f"copies/{number}.html": copy for number in range(1, COPIES + 1)}
    for name, text in pages.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(PDF, folder / "handbook.pdf")
    (folder / "tower.png").write_bytes(b"\x89PNG\r\n\x1a\n")
