"""The example server, over real sockets: what is served, what is refused, what is remembered, how it ends."""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from examples.serve import SiteServer, read_delays, read_redirects

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_S = 30


class Signalling(list):
    """A record that tells when the first request has arrived."""

    def __init__(self):
        super().__init__()
        self.arrived = asyncio.Event()

    def append(self, record):
        super().append(record)
        self.arrived.set()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "index.html").write_text("<p>start</p>")
    (root / "page.html").write_text("<p>{{ORIGIN}} stays in pages</p>")
    (root / "sub" / "index.html").write_text("<p>sub</p>")
    (root / "robots.txt").write_text("Sitemap: {{ORIGIN}}/sitemap.xml\n")
    (root / "sitemap.xml").write_text("<urlset><url><loc>{{ORIGIN}}/</loc></url></urlset>")
    (root / "_redirects").write_text("# old addresses\n/old.html /page.html 301\n/moved /sub/ 302\n/plain /page.html\n")
    (root / ".hidden").write_text("no")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "way-out").symlink_to(tmp_path / "secret.txt")
    return root


@pytest.fixture
async def client():
    timeout = aiohttp.ClientTimeout(total=LIMIT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


async def ask(client, url, **options):
    async with client.request(options.pop("method", "GET"), url, allow_redirects=False, **options) as response:
        return response.status, response.headers, await response.read()


async def ask_raw(server, target):
    """Send a request target as it is: clients tidy up a path before they send it."""
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {server.host_port}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return int(answer.split()[1]), answer


async def test_every_file_of_the_site_is_served_unchanged(client):
    """Each page and style sheet of the example arrives byte by byte, with the type its name promises."""
    types = {".html": "text/html", ".css": "text/css", ".pdf": "application/pdf"}
    async with SiteServer(EXAMPLES / "site") as server:
        for file in (EXAMPLES / "site").rglob("*.*"):
            if file.suffix in types:
                path = file.relative_to(EXAMPLES / "site").as_posix()
                status, headers, body = await ask(client, f"{server.url}/{path}")
                assert (status, body) == (200, file.read_bytes()), path
                assert headers["Content-Type"].partition(";")[0] == types[file.suffix]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("notes.md", "text/markdown; charset=utf-8"),
        ("notes.txt", "text/plain; charset=utf-8"),
        ("notes.pdf", "application/pdf"),
    ],
)
async def test_documents_are_served_with_the_type_by_which_they_are_read(client, folder, name, kind):
    """Markdown too, which a crawl skips as `application/octet-stream`."""
    (folder / name).write_text("# Notes")
    async with SiteServer(folder) as server:
        status, headers, _ = await ask(client, f"{server.url}/{name}")
    assert (status, headers["Content-Type"]) == (200, kind)


async def test_example_answers_as_its_manifest_says(client):
    """Over the wire too, the broken link is a 404, the redirect a 301 and the private page there to be fetched."""
    paths = json.loads((EXAMPLES / "site.json").read_text())["paths"]
    async with SiteServer(EXAMPLES / "site") as server:
        for path in paths["broken"]:
            assert (await ask(client, server.url + path))[0] == 404
        for source, target in paths["redirects"].items():
            status, headers, _ = await ask(client, server.url + source)
            assert (status, headers["Location"]) == (301, target)
        for path in paths["disallowed"]:
            assert (await ask(client, server.url + path))[0] == 200


async def test_folders_answer_with_their_index(client, folder):
    """A folder's address ends with a slash: without it a redirect, without an index a 404."""
    async with SiteServer(folder) as server:
        assert (await ask(client, server.url + "/"))[2] == b"<p>start</p>"
        assert (await ask(client, server.url + "/sub/"))[2] == b"<p>sub</p>"
        status, headers, _ = await ask(client, server.url + "/sub")
        assert (status, headers["Location"]) == (301, "/sub/")
        assert (await ask(client, server.url + "/empty/"))[0] == 404
        assert (await ask(client, server.url + "/page.html/"))[0] == 404


async def test_origin_is_filled_in_where_it_belongs(client, folder):
    """Text and XML files get the origin that the client used; pages are served as they are."""
    async with SiteServer(folder) as server:
        assert (await ask(client, server.url + "/robots.txt"))[2].decode() == f"Sitemap: {server.url}/sitemap.xml\n"
        _, headers, body = await ask(client, server.url + "/sitemap.xml", headers={"Host": "site:81"})
        assert b"<loc>http://site:81/</loc>" in body
        assert headers["Content-Type"] == "application/xml; charset=utf-8"
        assert b"{{ORIGIN}}" in (await ask(client, server.url + "/page.html"))[2]


async def test_redirects_come_from_the_file_which_is_not_served(client, folder):
    """The lines of _redirects are answered with their status, 301 when none is given; the file itself is a 404."""
    async with SiteServer(folder) as server:
        answers = {path: await ask(client, server.url + path) for path in ("/old.html", "/moved", "/plain")}
        assert {path: (answer[0], answer[1]["Location"]) for path, answer in answers.items()} == {
            "/old.html": (301, "/page.html"),
            "/moved": (302, "/sub/"),
            "/plain": (301, "/page.html"),
        }
        assert (await ask(client, server.url + "/_redirects"))[0] == 404


@pytest.mark.parametrize("line", ["/only-one", "/a /b 200", "/a /b 301 more", "/a /b soon"])
def test_malformed_redirects_are_refused(tmp_path, line):
    """A line that is no redirect is named with its number, before anything is served."""
    (tmp_path / "_redirects").write_text("/fine /x\n" + line)
    with pytest.raises(ValueError, match="_redirects, line 2"):
        read_redirects(tmp_path / "_redirects")


async def test_delays_come_from_the_file_which_is_not_served(client, folder):
    """A page of _delays is answered after its pause, the others at once; a program's own pause goes first."""
    (folder / "_delays").write_text("# slow ones\n/page.html 0.4\n/sub/ 30\n")
    async with SiteServer(folder, slow={"/sub/": 0.0}) as server:
        began = time.monotonic()
        assert (await ask(client, server.url + "/sub/"))[0] == 200
        assert (await ask(client, server.url + "/_delays"))[0] == 404
        assert (await ask(client, server.url + "/page.html"))[0] == 200
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("line", ["/only-one", "/a soon", "/a -1", "/a nan", "/a 1 more"])
def test_malformed_delays_are_refused(tmp_path, line):
    """As redirects are."""
    (tmp_path / "_delays").write_text("/fine 1\n" + line)
    with pytest.raises(ValueError, match="_delays, line 2"):
        read_delays(tmp_path / "_delays")


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/way-out",
        "/.hidden",
        "/%00",
        "/" + "a" * 5000,
        "//sub",
        "/..%5csecret.txt",
    ],
)
async def test_nothing_outside_the_folder_is_served(folder, target):
    """Dots, escapes, links that lead out, hidden files and impossible names are refused, never a 200 or a 500."""
    async with SiteServer(folder) as server:
        status, answer = await ask_raw(server, target)
    assert status in {400, 403, 404}
    assert b"\r\n\r\nsecret" not in answer


async def test_unchanged_file_answers_304_and_is_recorded_so(client, folder):
    """A conditional request with the file's own ETag is answered without a body, and the record shows the 304."""
    async with SiteServer(folder) as server:
        _, headers, _ = await ask(client, server.url + "/page.html")
        assert "Last-Modified" in headers
        status, _, body = await ask(client, server.url + "/page.html", headers={"If-None-Match": headers["ETag"]})
        assert (status, body) == (304, b"")
        assert [record.status for record in server.requests] == [200, 304]


async def test_requests_are_recorded_in_order_with_both_clocks(client, folder):
    """Each request leaves its method, path with query, arrival on both clocks and status."""
    before = time.monotonic(), time.time()
    async with SiteServer(folder) as server:
        await ask(client, server.url + "/page.html?a=1")
        await ask(client, server.url + "/none", method="HEAD")
        await ask(client, server.url + "/", method="POST")
    after = time.monotonic(), time.time()
    assert [(record.method, record.path, record.status) for record in server.requests] == [
        ("GET", "/page.html?a=1", 200),
        ("HEAD", "/none", 404),
        ("POST", "/", 405),
    ]
    assert all(before[0] <= record.monotonic_s <= after[0] for record in server.requests)
    assert all(before[1] <= record.unix_s <= after[1] for record in server.requests)


async def test_access_log_is_a_list_or_a_file(client, folder, tmp_path):
    """A list that is passed in becomes the record; a file gets one JSON line a request, and keeps what it had."""
    records = []
    async with SiteServer(folder, access_log=records) as server:
        await ask(client, server.url + "/")
    assert [record.path for record in records] == ["/"]
    log = tmp_path / "access.jsonl"
    for _ in range(2):
        async with SiteServer(folder, access_log=log) as server:
            await ask(client, server.url + "/page.html")
            assert json.loads(log.read_text().splitlines()[-1])["status"] == 200  # readable before the end
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["/page.html"] * 2
    assert set(lines[0]) == {"method", "path", "monotonic_s", "unix_s", "status"}


async def test_paths_can_fail_and_heal_while_it_runs(client, folder):
    """A path that is told to fail does so for existing and missing files alike, until it is taken off the list."""
    async with SiteServer(folder, fail={"/page.html": 503, "/none": 599}) as server:
        assert (await ask(client, server.url + "/page.html"))[0] == 503
        assert (await ask(client, server.url + "/none"))[0] == 599
        del server.fail["/page.html"]
        assert (await ask(client, server.url + "/page.html"))[0] == 200


async def test_delay_and_slow_paths_hold_an_answer_back(client, folder):
    """Every answer waits for the server's delay, a slow path for its own instead."""
    async with SiteServer(folder, delay_s=0.05, slow={"/sub/": 0.2, "/page.html": 0}) as server:
        waited = {}
        for path in ("/", "/sub/"):
            began = time.monotonic()
            assert (await ask(client, server.url + path))[0] == 200
            waited[path] = time.monotonic() - began
        assert waited["/"] >= 0.05
        assert waited["/sub/"] >= 0.2
        server.delay_s = 3600
        assert (await ask(client, server.url + "/page.html"))[0] == 200  # a pause of its own, of nothing


async def test_stop_ends_slow_answers_and_frees_the_port(client, folder):
    """Stopping does not wait for a pause of an hour: its client gets a 503, and the same port can be taken again."""
    records = Signalling()
    server = await SiteServer(folder, access_log=records, slow={"/": 3600}).start()
    url, port = server.url, server.port
    asked = asyncio.create_task(ask(client, url + "/"))
    async with asyncio.timeout(LIMIT_S):
        await records.arrived.wait()
        await server.stop()
        assert (await asked)[0] == 503
    await server.stop()  # twice does nothing
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(client, url + "/page.html")
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    async with SiteServer(folder, port) as again:
        assert again.url == url


async def test_start_refuses_what_cannot_work(folder, tmp_path):
    """A missing folder, a port in use, a log that cannot be written and a second start are specific errors."""
    with pytest.raises(NotADirectoryError, match="nowhere"):
        SiteServer(tmp_path / "nowhere")
    async with SiteServer(folder) as server:
        with pytest.raises(OSError, match="address already in use"):
            await SiteServer(folder, server.port).start()
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start()
    with pytest.raises(FileNotFoundError):
        await SiteServer(folder, access_log=tmp_path / "no" / "log").start()


async def run_command(*arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "serve.py"),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_command_prints_its_url_and_ends_on_a_signal(client, folder, tmp_path, number):
    """Run as a command it prints one line, serves, and exits 0 on a signal with its log written."""
    log = tmp_path / "log"
    process = await run_command(folder, "--port", 0, "--delay", 0.01, "--access-log", log)
    async with asyncio.timeout(LIMIT_S):
        url = (await process.stdout.readline()).decode().strip()
        assert (await ask(client, url + "/page.html"))[0] == 200
        process.send_signal(number)
        rest = await process.communicate()
    assert (process.returncode, rest) == (0, (b"", b""))
    assert json.loads(log.read_text())["path"] == "/page.html"


async def test_command_says_what_is_wrong(folder, tmp_path):
    """A folder that is not there and a port that is taken or impossible end with status 1 and one line."""
    async with SiteServer(folder) as server, asyncio.timeout(LIMIT_S):
        for arguments, message in (
            ((tmp_path / "nowhere",), b"is not a folder"),
            ((folder, "--port", server.port), b"address already in use"),
            ((folder, "--port", 99999), b"port must be 0-65535"),
        ):
            process = await run_command(*arguments)
            output, errors = await process.communicate()
            assert (process.returncode, output, errors.count(b"\n")) == (1, b"", 1)
            assert message in errors
