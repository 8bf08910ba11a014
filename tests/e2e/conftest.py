"""One whole stack for the tests of this folder, and the sites it may fetch."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from examples.serve import SiteServer
from tests.counts.cut import write_cut
from tests.e2e.sites import PAGES, write_tree
from tests.e2e.stack import Stack
from tests.llm_server import KEY, MODEL, LlmServer, open_llm

EXAMPLE = Path(__file__).parents[2] / "examples" / "site"
YEAR_S = 365 * 86_400


@pytest.fixture(scope="session")
async def example_site() -> AsyncIterator[SiteServer]:
    """The demo's site."""
    async with SiteServer(EXAMPLE) as server:
        yield server


@pytest.fixture(scope="session")
def folder_of_big_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the big site."""
    folder = tmp_path_factory.mktemp("big-site")
    write_tree(folder, pages=PAGES)
    return folder


@pytest.fixture(scope="session")
async def big_site(folder_of_big_site: Path) -> AsyncIterator[SiteServer]:
    """Some hundred linked pages, each after a short pause, so that there is a middle to stop in."""
    async with SiteServer(folder_of_big_site, delay_s=0.1) as server:
        yield server


@pytest.fixture(scope="session")
async def counted_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SiteServer]:
    """Few pages, with all the cases in which they are counted in different ways."""
    folder = tmp_path_factory.mktemp("counted-site")
    write_cut(folder)
    async with SiteServer(folder) as server:
        yield server


@pytest.fixture(scope="session")
async def llm() -> AsyncIterator[LlmServer]:
    """The endpoint of a language model."""
    async with open_llm() as server:
        yield server


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    example_site: SiteServer,
    big_site: SiteServer,
    counted_site: SiteServer,
    llm: LlmServer,
) -> Iterator[Stack]:
    """A running stack."""
    allow = ",".join(site.host_port for site in (example_site, big_site, counted_site))
    model = {
        "KE_LLM_URL": llm.url,
        "KE_LLM_API_KEY": KEY,
        "KE_LLM_MODEL": MODEL,
        "KE_LLM_CONCURRENCY": "3",
        "KE_LLM_PRICE_IN": "2",
        "KE_LLM_PRICE_OUT": "10",
    }
    # By default each quarter of an hour, by the clock: it would mend what a test has broken before that is looked for.
    settings = {**model, "KE_RECONCILE_EVERY_S": str(YEAR_S)}
    running = Stack(tmp_path_factory.mktemp("stack") / "data", fetch_allow=allow, settings=settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()
