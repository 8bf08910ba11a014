"""The sites that are crawled, and a web server for them in a process of its own."""

import asyncio
import contextlib
import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.faults.measures import open_folder, say
from tests.faults.prose import write_site

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ke" / "bench"
"""Unpacked packages; nothing is installed."""
DOWNLOAD_TIMEOUT_S = 300.0
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
SITEMAP = "sitemap.xml"
GENERATED_PAGES = 1_169
GENERATED_CHARACTERS = 6_000


@dataclass(frozen=True, slots=True)
class Site:
    """A folder of pages."""

    name: str
    folder: Path
    start: str
    """The path of the first page."""


def postgres_docs() -> Site:
    """PostgreSQL's documentation, 1,169 real pages with 24 links each; made-up pages where it cannot be had."""
    return packaged("postgresql-doc-15", "postgresql-doc-15/html") or generated(GENERATED_PAGES)


def rust_docs() -> Site | None:
    """Rust's documentation, 32,101 pages, of which links lead to 21,633; None where it cannot be had."""
    return packaged("rust-doc", "rust-doc/html")


def generated(pages: int) -> Site:
    """Made-up pages of the same length, in a tree of links."""
    folder = CACHE / f"generated-{pages}"
    if not folder.exists():
        with _fresh(folder) as fresh:
            write_site(fresh, pages=pages, characters=GENERATED_CHARACTERS, seed=1)
    return Site(f"{pages} generated pages", folder, "/index.html")


def packaged(package: str, part: str) -> Site | None:
    """The pages of a Debian package in a folder below /usr/share/doc; None where they cannot be had."""
    unpacked = _unpacked(package)
    if unpacked is None:
        return None
    folder = unpacked / "usr/share/doc" / part
    if not (folder / "index.html").exists():
        say(f"{package} has no {part}/index.html")
        return None
    return Site(package, folder, "/index.html")


def _unpacked(package: str) -> Path | None:
    """Where a Debian package is unpacked; it is fetched when it is not there, and never installed."""
    folder = CACHE / package
    if folder.exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return None
    say(f"fetching the Debian package {package}")
    with tempfile.TemporaryDirectory() as download:
        fetch = subprocess.run(
            ["apt-get", "download", "--quiet", package],
            cwd=download,
            capture_output=True,
            check=False,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
        found = list(Path(download).glob("*.deb"))
        if fetch.returncode or not found:
            say(f"{package} cannot be had: {fetch.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
            return None
        with _fresh(folder) as fresh:
            subprocess.run(["dpkg", "-x", str(found[0]), str(fresh)], check=True, timeout=DOWNLOAD_TIMEOUT_S)
            for packed in list(fresh.rglob("*.html.gz")):
                packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
                packed.unlink()
    return folder


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A new folder that takes its place only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as above:
        fresh = Path(above) / "new"
        fresh.mkdir()
        yield fresh
        fresh.rename(folder)


@dataclass(frozen=True, slots=True)
class Served:
    """A site that is being served."""

    site: Site
    host_port: str
    server: str
    """What serves it."""
    log: Path | None

    @property
    def url(self) -> str:
        """Where a crawl begins."""
        return f"http://{self.host_port}{self.site.start}"

    def fetches(self) -> Counter[str]:
        """How often each page was asked for since the start, robots.txt and sitemaps aside."""
        assert self.log is not None
        paths = Counter(self.log.read_text().split())
        return Counter({path: n for path, n in paths.items() if path not in {"/robots.txt", "/sitemap.xml"}})


@asynccontextmanager
async def served(site: Site, *, logged: bool = False, sitemap: bool = False) -> AsyncIterator[Served]:
    """Serves a site by nginx, or by `static_server` where there is none, until the block ends.

    Args:
        site: The site.
        logged: Whether every request is written down.
        sitemap: Whether it has a sitemap of all its pages, those that no page links to among them.
    """
    work = open_folder("ke-bench-server-")
    log = work / "requests.log" if logged else None
    nginx = shutil.which("nginx") or await asyncio.to_thread(_unpacked_nginx)
    try:
        process, port = _start_nginx(nginx, site, work, log) if nginx else _start_own(site, log)
        try:
            await _answers(process, port)
            if sitemap:
                await asyncio.to_thread(_write_sitemap, site.folder, port)
            server = "nginx" if nginx else "tests/bench/static_server.py"
            yield Served(site, f"127.0.0.1:{port}", server, log)
        finally:
            await asyncio.to_thread(_end, process)
            (site.folder / SITEMAP).unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_sitemap(folder: Path, port: int) -> None:
    pages = (quote(str(page.relative_to(folder))) for page in sorted(folder.rglob("*.html")))
    urls = "".join(f"<url><loc>http://127.0.0.1:{port}/{page}</loc></url>\n" for page in pages)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    (folder / SITEMAP).write_text(f"{head}{urls}</urlset>\n", encoding="utf-8")


def _unpacked_nginx() -> str | None:
    folder = _unpacked("nginx")
    binary = None if folder is None else folder / "usr/sbin/nginx"
    if binary is None or not binary.exists():
        return None
    try:
        tried = subprocess.run([binary, "-v"], capture_output=True, check=False, timeout=START_TIMEOUT_S)
    except OSError:
        return None
    return str(binary) if tried.returncode == 0 else None


def _start_nginx(binary: str, site: Site, work: Path, log: Path | None) -> "tuple[subprocess.Popen[bytes], int]":
    port = _free_port()
    temp = " ".join(f"{name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    access = f"access_log {log} path;" if log else "access_log off;"
    conf = work / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {work}/nginx.pid; error_log {work}/error.log;\n"
        f"events {{ worker_connections 512; }}\n"
        f"http {{ {temp}\n"
        "  types { text/html html; application/xml xml; text/css css; application/javascript js;"
        " image/svg+xml svg; image/png png; image/gif gif; image/jpeg jpg; text/plain txt; application/pdf pdf; }\n"
        "  default_type application/octet-stream; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
        "  log_format path '$request_uri';\n"
        f"  server {{ listen 127.0.0.1:{port}; root {site.folder}; index index.html; {access} }} }}\n"
    )
    command = [binary, "-p", str(work), "-c", str(conf), "-e", str(work / "error.log")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port


def _start_own(site: Site, log: Path | None) -> "tuple[subprocess.Popen[bytes], int]":
    command = [sys.executable, "-m", "tests.bench.static_server", str(site.folder), *([str(log)] if log else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def _answers(process: "subprocess.Popen[bytes]", port: int) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            assert process.poll() is None, f"the web server ended with {process.returncode}"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
