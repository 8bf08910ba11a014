"""The benchmarks' own parts: figures, goals, and the server that stands in for nginx. What they measure is no test."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ke.extraction.embed import find_embedder
from ke.web.sitemap import parse_sitemap
from tests.bench import site
from tests.bench.__main__ import BENCHMARKS
from tests.bench.figures import Figure, Goal, table, write
from tests.bench.lab import Lab, Options, peer
from tests.bench.site import Site, served
from tests.faults.prose import write_site
from tests.stores import open_stores


def test_the_median_of_the_runs_is_held_against_the_goal() -> None:
    """One lucky run does not meet a goal, and one unlucky run does not miss it."""
    assert Figure("a", Goal.least(1.0), [0.8, 0.9, 1.5]).met is False
    assert Figure("a", Goal.least(1.0), [0.2, 1.0, 1.5]).met is True
    assert Figure("a", Goal.most(2.0), [1.9, 2.1, 2.2]).met is False
    assert Figure("a", Goal.most(2.0), [1.0, 2.0, 9.0]).met is True


def test_where_the_longest_counts_one_bad_run_misses_the_goal() -> None:
    """A stall in one run of three is a stall."""
    assert Figure("a", Goal.most(1.0), [0.4, 0.4, 1.1], worst=True).met is False
    assert Figure("a", Goal.least(1.0), [0.9, 1.4, 1.1], worst=True).met is False


def test_what_was_not_measured_neither_meets_nor_misses_its_goal() -> None:
    """Nulls in the document and a dash in the table: never a number that nobody measured."""
    figure = Figure("a", Goal.least(1.0), note="no such thing here")
    assert figure.document() == {"name": "a", "ratio": None, "goal": ">= 1", "met": None, "spread": None}
    assert "not measured" in list(table([figure]))[-1]


def test_the_document_has_a_row_for_each_figure(tmp_path: Path) -> None:
    """`bench.json` is a list of name, ratio, goal, met and spread."""
    write([Figure("a", Goal.least(0.6), [0.5, 0.7, 0.9]), Figure("b", Goal.most(2.0), [3.0])], tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == [
        {"name": "a", "ratio": 0.7, "goal": ">= 0.6", "met": True, "spread": [0.5, 0.9]},
        {"name": "b", "ratio": 3.0, "goal": "<= 2", "met": False, "spread": [3.0, 3.0]},
    ]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_it_is_and_is_told_of_in_the_document(name: str) -> None:
    """Each can be loaded, describes itself, and each of its figures has its row, with its goal."""
    assert BENCHMARKS[name].load().__doc__
    told = (Path(__file__).parents[2] / "docs" / "PERFORMANCE.md").read_text()
    rows = [line for line in told.splitlines() if line.startswith("| `")]
    for figure, goal in BENCHMARKS[name].goals.items():
        (row,) = [line for line in rows if f"`{figure}`" in line.split(" | ")[0]]
        assert float(row.rstrip("| ").rsplit(" ", 1)[-1]) == goal.limit
        assert str(goal).split()[0] in row.rsplit("|", 2)[1]


async def test_a_benchmark_yields_the_figures_that_it_is_registered_with() -> None:
    """By its name and goal, also when it cannot be measured: here one that needs no stack."""
    lab = Lab(Options(runs=1, quick=True))
    figures = [figure async for figure in BENCHMARKS["writes"].load()(lab)]
    assert {figure.name: figure.goal for figure in figures} == BENCHMARKS["writes"].goals
    assert all(figure.ratio and figure.ratio > 0 for figure in figures)


async def test_the_plain_script_crawls_and_indexes_as_a_job_does(tmp_path: Path, no_nginx: None) -> None:
    """Every page is a source with its chunks, and every chunk a point; so it is the same pipeline that is timed."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_site(folder, pages=5, characters=400, seed=1)
    async with open_stores(tmp_path) as stores, served(Site("a site", folder, "/index.html")) as web:
        socket = str(tmp_path / "s")
        url = stores.database._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        told = await peer("tests.bench.peer_plain", web.url, url, socket)
        assert told["pages"] == 5
        async with stores.database.transaction() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT (SELECT count(*) FROM sources), (SELECT count(*) FROM pages WHERE state = 'fetched'),"
                " (SELECT count(*) FROM extractions WHERE state = 'ready')"
            )
            stored, fetched, chunks = rows.one()
        assert (stored, fetched) == (5, 5)
        assert await stores.vectors.count_all(find_embedder("wordllama").collection) == chunks >= 5


def test_an_unknown_name_is_refused() -> None:
    """A misspelt name is not an empty run."""
    command = [sys.executable, "-m", "tests.bench", "--only", "crawl-fats"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "crawl-fats" in ended.stderr
    assert "crawl-fast" in ended.stderr


@pytest.fixture
def no_nginx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has none, and no packages."""
    monkeypatch.setattr(site.shutil, "which", lambda _: None)
    monkeypatch.setattr(site, "CACHE", Path("/nowhere"))


@pytest.fixture
async def pages(tmp_path: Path, no_nginx: None) -> AsyncIterator[site.Served]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<p>Home")
    (tmp_path / "secret.html").write_text("<p>Not part of the site")
    async with served(Site("a site", folder, "/index.html"), logged=True) as web:
        yield web


async def test_the_small_server_serves_files_and_nothing_else(pages: site.Served) -> None:
    """Pages with their type, the index of a folder, 404 for what is not there or lies outside."""
    assert "static_server" in pages.server
    async with aiohttp.ClientSession(f"http://{pages.host_port}") as session:
        async with session.get("/") as answer:
            assert (answer.status, answer.content_type, await answer.text()) == (200, "text/html", "<p>Home")
        for path in ("/none.html", "/%2e%2e/secret.html"):
            async with session.get(path) as answer:
                assert answer.status == 404
        async with session.get("/index.html") as answer:
            assert answer.status == 200
    assert pages.fetches()["/index.html"] == 1


async def test_a_sitemap_names_every_page_while_the_site_is_served(tmp_path: Path, no_nginx: None) -> None:
    """Also what no page links to, by URLs that can be fetched; the folder is afterwards as it was."""
    (tmp_path / "a b.html").write_text("<p>Alone")
    site_ = Site("a site", tmp_path, "/")
    async with served(site_, sitemap=True) as web, aiohttp.ClientSession() as session:
        async with session.get(f"http://{web.host_port}/sitemap.xml") as answer:
            (url,) = parse_sitemap(await answer.read(), str(answer.url)).urls
        async with session.get(url) as answer:
            assert await answer.text() == "<p>Alone"
    assert [path.name for path in tmp_path.iterdir()] == ["a b.html"]


async def test_the_small_server_ends_with_its_block(tmp_path: Path, no_nginx: None) -> None:
    """Nobody listens afterwards."""
    async with served(Site("a site", tmp_path, "/")) as web:
        host_port = web.host_port
    async with aiohttp.ClientSession(f"http://{host_port}") as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("/")
