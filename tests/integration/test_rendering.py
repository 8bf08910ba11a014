"""Pages as a real Chromium shows them. Without one on PATH these tests are skipped, and say so."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from temporalio.testing import ActivityEnvironment

from ke.runtime.embedded.postgres import temporary_postgres
from ke.runtime.pool import CpuPool
from ke.storage.database import Database, migrate
from ke.web import rendering
from ke.web.browser_profiles import Profile, remove_left_profiles
from ke.web.chromium import find_chromium
from ke.web.errors import BrowserFailed, NoBrowser, TooLarge
from ke.web.fetch import Fetcher
from ke.web.parse import parse_page
from ke.web.rendering import Browser, RenderingFetcher
from tests.integration.lanes import Lanes, running_site
from tests.integration.web_site import Site, fetcher, site

EXAMPLES = Path(__file__).parents[2] / "examples"


def _has_chromium() -> bool:
    try:
        find_chromium()
    except NoBrowser:
        return False
    return True


needs_chromium = pytest.mark.skipif(
    not _has_chromium(), reason="no Chromium on PATH (Debian: apt-get install chromium)"
)

SHELL = """<html><head><title>Shell</title></head><body><p id=said>Nothing yet.</p><div id=links></div>
<script src="/app.js"></script></body></html>"""
APP = """addEventListener("load", async () => {
  const said = await (await fetch("/data" + location.pathname + ".json")).json()
  document.getElementById("said").textContent = said.text
  document.title = said.text
  for (const link of said.links) document.getElementById("links").innerHTML += `<a href="${link}">${link}</a>`
})"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with Browser(None, "ke-test/1") as made:
        yield made


@pytest.fixture
async def pages() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


@pytest.fixture
async def net(pages: Site) -> AsyncIterator[Fetcher]:
    async with fetcher(pages.key) as made:
        yield made


def html(pages: Site, body: str, path: str = "/") -> None:
    pages.serve(path, f"<html><body>{body}</body></html>", Content_Type="text/html; charset=utf-8")


async def shown(pages: Site, net: Fetcher, browser: Browser, path: str = "/", **more: int) -> str:
    return (await RenderingFetcher(net, browser).fetch(pages.url + path, **more)).body.decode()


@needs_chromium
async def test_page_is_read_as_its_scripts_have_made_it(pages: Site, net: Fetcher, browser: Browser) -> None:
    """Scripts run, ask for data, and what they write is in the page; characters come through."""
    pages.serve("/", SHELL, Content_Type="text/html")
    pages.serve("/app.js", APP, Content_Type="text/javascript")
    pages.serve("/data/.json", '{"text": "Grüße, 世界", "links": ["/next"]}', Content_Type="application/json")
    text = await shown(pages, net, browser)
    assert "Grüße, 世界" in text
    assert '<a href="/next">' in text


@needs_chromium
async def test_page_of_the_example_site_is_written_by_its_script(pages: Site, net: Fetcher, browser: Browser) -> None:
    """It says what the site's manifest has of it, which a fetch alone does not give."""
    scripted = json.loads((EXAMPLES / "site.json").read_text())["scripted"]
    pages.serve("/", (EXAMPLES / "site" / scripted["page"][1:]).read_text(), Content_Type="text/html")
    text = await shown(pages, net, browser)
    assert scripted["words"] in parse_page(text.encode(), "text/html", None, pages.url).text


@needs_chromium
async def test_what_needs_no_showing_is_passed_on(pages: Site, net: Fetcher, browser: Browser) -> None:
    """Errors and plain text are what the fetcher says they are."""
    pages.serve("/a.txt", "<b>as it is</b>", Content_Type="text/plain")
    assert await shown(pages, net, browser, "/a.txt") == "<b>as it is</b>"
    assert (await RenderingFetcher(net, browser).fetch(f"{pages.url}/none")).status == 404


@needs_chromium
async def test_browser_reaches_nothing_that_the_guard_refuses(pages: Site, net: Fetcher, browser: Browser) -> None:
    """Whatever way a page tries, a server that is not allowed sees not even a connection."""
    touched: list[object] = []

    async def touch(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        touched.append(writer)
        writer.close()

    server = await asyncio.start_server(touch, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    secrets = (f"127.0.0.1:{port}", f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}")
    pages.redirect("/away", f"http://{secrets[0]}/")
    pages.serve("/worker.js", f"fetch('http://{secrets[0]}/worker')", Content_Type="text/javascript")
    tries = "".join(
        f"""<img src="http://{secret}/img"><iframe src="http://{secret}/frame"></iframe>
        <link rel="stylesheet" href="http://{secret}/css"><link rel="preconnect" href="http://{secret}/">
        <link rel="dns-prefetch" href="//{secret}/"><link rel="prefetch" href="http://{secret}/prefetch">
        <object data="http://{secret}/object"></object><video src="http://{secret}/video"></video>
        <script src="http://{secret}/js"></script>
        <script>
          fetch("http://{secret}/fetch").catch(() => 0)
          fetch("http://{secret}/post", {{method: "POST", body: "x", mode: "no-cors"}}).catch(() => 0)
          navigator.sendBeacon("http://{secret}/beacon", "x")
          new WebSocket("ws://{secret}/ws")
          new EventSource("http://{secret}/events")
          window.open("http://{secret}/open")
          try {{ new RTCPeerConnection({{iceServers: [{{urls: "turn:{secret}?transport=tcp", username: "a",
            credential: "b"}}]}}).createDataChannel("x") }} catch (e) {{}}
        </script>"""
        for secret in secrets
    )
    last = f"""<script>fetch("/away").catch(() => 0); new Worker("/worker.js")
      navigator.serviceWorker?.register("/worker.js").catch(() => 0)
      setTimeout(() => {{ location = "http://{secrets[0]}/location" }}, 100)</script><p>Still here.</p>"""
    html(pages, tries + last)
    assert "Still here." in await shown(pages, net, browser)
    await asyncio.sleep(0.5)
    server.close()
    assert touched == []
    assert pages.asked["/away"] == 1


@needs_chromium
async def test_page_that_leads_elsewhere_stays_what_it_was(pages: Site, net: Fetcher, browser: Browser) -> None:
    """Neither a script nor a refresh changes which page is read, and dialogs hold nothing up."""
    html(pages, "Elsewhere.", "/else")
    html(
        pages,
        """<meta http-equiv="refresh" content="0; url=/else"><p>Here.</p>
        <script>alert("a"); confirm("b"); prompt("c"); location = "/else"</script>""",
    )
    text = await shown(pages, net, browser)
    assert "Here." in text
    assert pages.asked["/else"] == 0


@needs_chromium
async def test_requests_of_a_page_are_bounded(
    pages: Site, net: Fetcher, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that asks without end is answered a bounded number of times, in bytes too."""
    monkeypatch.setattr(rendering, "MAX_REQUESTS", 10)
    pages.serve("/data", b"x" * 1000, Content_Type="text/plain")
    html(pages, "<p>Asks.</p><script>for (let n = 0; n < 200; n++) fetch('/data?' + n).catch(() => 0)</script>")
    assert "Asks." in await shown(pages, net, browser)
    assert pages.asked["/data"] == 10
    monkeypatch.setattr(rendering, "MAX_LOADED_BYTES", 3_500)
    html(
        pages,
        """<p id=got></p><script>(async () => { let got = 0
        for (let n = 0; n < 9; n++) await fetch('/data?' + n).then(() => got++, () => 0)
        document.getElementById("got").textContent = "got " + got })()</script>""",
        "/bytes",
    )
    assert "got 3" in await shown(pages, net, browser, "/bytes")


@needs_chromium
async def test_all_that_a_page_loads_counts_as_its_bytes(pages: Site, net: Fetcher, browser: Browser) -> None:
    """The page as it came and what its scripts asked for, errors among it; many at once do not keep each other out."""
    scripts = "".join(f'<script async src="/{n}.js"></script>' for n in range(12))
    html(pages, f"<p>Asks.</p>{scripts}<script>fetch('/none')</script>")
    for number in range(12):
        pages.serve(f"/{number}.js", f"/*{'x' * 5_000}*/", Content_Type="text/javascript")
    response = await RenderingFetcher(net, browser).fetch(f"{pages.url}/")
    async with aiohttp.ClientSession(pages.url) as session:
        raw = sum([len(await (await session.get(path)).read()) for path in ("/", "/none")])
    assert response.size == raw + 12 * 5_004


@needs_chromium
async def test_page_that_loads_more_than_is_left_is_refused(pages: Site, net: Fetcher, browser: Browser) -> None:
    """What it has loaded by then is told, and is not more than was left."""
    html(pages, "<script>for (let n = 0; n < 9; n++) fetch('/data?' + n).catch(() => 0)</script>")
    pages.serve("/data", b"x" * 1_000, Content_Type="text/plain")
    with pytest.raises(TooLarge) as caught:
        await shown(pages, net, browser, max_bytes=5_000)
    assert 4_000 < caught.value.extra["bytes_read"] <= 5_000


@needs_chromium
async def test_page_that_scripts_make_too_long_is_refused(pages: Site, net: Fetcher, browser: Browser) -> None:
    """The limit of a body holds for what is read in the end."""
    html(pages, "<script>document.body.append('x'.repeat(100000))</script>")
    with pytest.raises(TooLarge):
        await shown(pages, net, browser, max_bytes=50_000)


@needs_chromium
async def test_script_that_never_ends_costs_its_page_only(
    pages: Site, net: Fetcher, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after its time, and the next page is shown."""
    html(pages, "<script>while (true) {}</script>")
    html(pages, "<p>Fine.</p>", "/fine")
    with monkeypatch.context() as hurried:
        hurried.setattr(rendering, "RENDER_TIMEOUT_S", 2.0)
        hurried.setattr(rendering, "SNAPSHOT_TIMEOUT_S", 1.0)
        with pytest.raises(BrowserFailed):
            await shown(pages, net, browser)
    assert "Fine." in await shown(pages, net, browser, "/fine")


@needs_chromium
async def test_page_that_is_never_quiet_is_taken_as_it_is(
    pages: Site, net: Fetcher, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is up, what it shows by then counts."""
    monkeypatch.setattr(rendering, "RENDER_TIMEOUT_S", 5.0)
    pages.serve("/data", "{}", Content_Type="application/json")
    html(pages, "<p>Busy.</p><script>setInterval(() => fetch('/data'), 100)</script>")
    async with asyncio.timeout(60):
        assert "Busy." in await shown(pages, net, browser)


@needs_chromium
async def test_browser_that_died_is_started_anew(pages: Site, net: Fetcher) -> None:
    """A page that it took with it is tried again later; its process and its profile are gone when it is closed."""
    html(pages, "<p>Fine.</p>")
    async with Browser(None, "ke-test/1") as mine:
        assert "Fine." in await shown(pages, net, mine)
        first = mine._chromium
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while first.is_alive:  # noqa: ASYNC110  the pipe ends with it
                await asyncio.sleep(0.05)
        assert "Fine." in await shown(pages, net, mine)
        second = mine._chromium
        assert second is not None
        assert second.pid != first.pid
        folders = (first._profile.folder, second._profile.folder)
    assert not psutil.pid_exists(second.pid)
    assert [folder.exists() for folder in folders] == [False, False]


def sockets_in(folder: Path) -> list[Path]:
    """Where a browser listens for others of its profile."""
    return [*folder.glob("*Chrom*/SingletonSocket")]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for temporary files in whose path a browser's socket has room."""
    with tempfile.TemporaryDirectory(prefix="ke-") as folder:
        yield Path(folder)


@needs_chromium
async def test_killed_worker_leaves_no_browser(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chromium ends with the process that started it, however that ended; the next worker removes its profile."""
    monkeypatch.setenv("TMPDIR", str(short_path))
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    program = short_path / "owner.py"
    program.write_text(
        "import asyncio\n"
        "from ke.web.chromium import Chromium, find_chromium\n"
        "async def main():\n"
        "    made = await Chromium.start(find_chromium(), 'ke-test/1')\n"
        "    print(made.pid, made._profile.folder, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    owner = await asyncio.create_subprocess_exec(sys.executable, program, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    said, where = (await owner.stdout.readline()).decode().split()
    pid, folder = int(said), Path(where)
    remove_left_profiles()
    assert is_there(folder / "Default")
    assert sockets_in(folder), "its socket is elsewhere, and stays"
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(tree) > 1
    owner.kill()
    await owner.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, tree, timeout=15)
    assert alive == []
    async with asyncio.timeout(10):
        while is_there(folder):  # a helper of the browser may still write into it
            remove_left_profiles()
            await asyncio.sleep(0.05)


def test_profile_is_removed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock's number is another file's afterwards; and one that nobody holds any more is removed as well."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    profile = Profile()
    folder, lock = profile.folder, fds_of(profile.folder)[0]
    profile.remove()
    other = os.open(os.devnull, os.O_RDONLY)
    os.dup2(other, lock)
    profile.remove()
    os.fstat(lock)
    for number in {other, lock}:
        os.close(number)
    assert not folder.exists()
    lost = Profile()
    folder = lost.folder
    remove_left_profiles()
    assert folder.exists(), "it is locked"
    del lost
    assert (list(tmp_path.iterdir()), fds_of(folder)) == ([], [])


def fds_of(folder: Path) -> list[int]:
    """This process's open files that are a folder."""
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(number.readlink()).startswith(str(folder)):
                found.append(int(number.name))
    return found


def is_there(folder: Path) -> bool:
    """Whether a profile still exists."""
    return folder.exists()


# In a job


@pytest.fixture
async def lanes() -> AsyncIterator[Lanes]:
    pool = CpuPool(1)
    async with temporary_postgres() as url, running_site() as made, Browser(None, "ke-test/1") as mine:
        await migrate(url)
        database = Database(url)
        yield Lanes(database, pool, made, browser=mine)
        await database.close()
        await pool.close()


def an_app(lanes: Lanes) -> None:
    """Three pages that are one and the same shell until their scripts have run."""
    said = {"/a": ("The first.", ["/b", "/c"]), "/b": ("The second.", ["/a"]), "/c": ("The third.", [])}
    lanes.answers["/app.js"] = lambda _: web.Response(text=APP, content_type="text/javascript")
    for path, (text, links) in said.items():
        lanes.answers[path] = lambda _: web.Response(text=SHELL, content_type="text/html", headers={"ETag": '"1"'})
        lanes.answers[f"/data{path}.json"] = lambda _, t=text, n=links: web.json_response({"text": t, "links": n})


@needs_chromium
async def test_crawl_of_an_app_follows_and_stores_what_its_scripts_make(lanes: Lanes) -> None:
    """Without a browser there is one page; with it each is found, and none taken for another's duplicate."""
    an_app(lanes)
    _, plain = await lanes.whole(lanes.crawl("/a"))
    assert plain.counters.sources == 1
    spec = replace(lanes.crawl("/a"), browser=True)
    job, outcome = await lanes.whole(spec)
    assert (outcome.counters.sources, outcome.counters.pages_duplicate) == (3, 0)
    assert "The third." in (await lanes.stored(job))["/c"].text
    lanes.answers["/data/c.json"] = lambda _: web.json_response({"text": "Another third.", "links": []})
    again, outcome = await lanes.whole(replace(spec, recrawl_of=job))
    assert (outcome.counters.pages_unchanged, outcome.counters.pages_fetched) == (2, 1)
    assert set(await lanes.stored(again)) == {"/c"}


@needs_chromium
async def test_bytes_that_pages_load_count_against_the_limit(lanes: Lanes) -> None:
    """The crawl ends before a page whose script does not fit any more."""
    script = f"/*{'x' * 30_000}*/"
    lanes.answers["/app.js"] = lambda _: web.Response(text=script, content_type="text/javascript")
    for number in range(1, 7):
        lanes.site.html(f"/{number}", f"/{number + 1}", head="<script src=/app.js></script>")
    _, outcome = await lanes.whole(replace(lanes.crawl("/1", max_bytes=100_000), browser=True))
    assert (outcome.counters.pages_fetched, outcome.counters.pages_skipped) == (3, 1)
    assert 3 * len(script) < outcome.counters.bytes <= 100_000


@needs_chromium
async def test_cancel_ends_rendering_promptly(lanes: Lanes) -> None:
    """A page whose scripts are under way is given back, and they ask for nothing any more."""
    lanes.site.html("/", text="Busy.", head="<script>setInterval(() => fetch('/data'), 50)</script>")
    environment = ActivityEnvironment()
    piece = await lanes.job(replace(lanes.crawl(), browser=True))
    running = asyncio.create_task(lanes.run(piece, environment))
    await lanes.until(lambda asked: asked.count("/data") > 2)
    environment.cancel()
    async with asyncio.timeout(8):
        report = await running
    assert (report.done, report.interrupted) == (False, True)
    assert (await lanes.pages(piece))["/"][0] == "pending"
    asked = len(lanes.asked)
    await asyncio.sleep(0.5)
    assert len(lanes.asked) == asked


async def test_job_that_needs_a_browser_fails_where_there_is_none(lanes: Lanes) -> None:
    """For good, and saying what is missing where."""
    missing = Browser("no-such-browser", "ke-test/1")
    for absent, words in ((None, "There is no Chromium"), (missing, "no-such-browser, which KE_CHROMIUM names")):
        lanes.browser = absent
        with pytest.raises(NoBrowser, match=words):
            await lanes.run(await lanes.job(replace(lanes.crawl(), browser=True)))
