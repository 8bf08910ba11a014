import asyncio

import pytest
from aiohttp import web

from ke.contracts.errors import FetchRefused
from ke.web import robots
from ke.web.robots import MAX_ROBOTS_BYTES, Robots
from tests.integration.web_site import fetcher, raw_server, site


async def rules_for(local, **more):
    async with fetcher(local.key, **more) as web_:
        return await Robots(web_).rules(f"{local.url}/some/page")


async def test_rules_are_fetched_and_obeyed():
    """By the product token of the user agent, from the root of the origin."""
    async with site() as local:
        local.serve("/robots.txt", "User-agent: ke-test\nDisallow: /x\nCrawl-delay: 2\nSitemap: /s.xml\n")
        found = await rules_for(local)
        assert not found.allowed(f"{local.url}/x/y")
        assert found.allowed(f"{local.url}/y")
        assert found.crawl_delay_s == 2
        assert found.sitemaps == (f"{local.url}/s.xml",)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_without_a_robots_txt_all_is_allowed(status):
    """RFC 9309, 2.3.1.3: 4xx means unavailable."""
    async with site() as local:
        local.serve("/robots.txt", "User-agent: *\nDisallow: /\n", status)
        assert (await rules_for(local)).allowed(f"{local.url}/x")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_unreachable_robots_txt_forbids_all_for_now(status):
    """RFC 9309, 2.3.1.4; and a server that says slow down is not taken as open."""
    async with site() as local:
        local.serve("/robots.txt", "", status)
        found = await rules_for(local)
        assert not found.reachable
        assert not found.allowed(f"{local.url}/x")


async def test_a_server_that_does_not_answer_forbids_all_for_now():
    """A timeout and a broken connection are unreachable, too."""

    async def hang_up(reader, writer):
        await reader.readuntil(b"\r\n\r\n")

    async def silent(reader, writer):
        await reader.read()

    for talk in (hang_up, silent):
        async with raw_server(talk) as key, fetcher(key, timeout_s=0.3) as web_:
            assert not (await Robots(web_).rules(f"http://{key}/")).reachable


async def test_unreachable_rules_are_asked_for_again_later(monkeypatch):
    """Readable ones are kept."""
    monkeypatch.setattr(robots, "UNREACHABLE_S", 0.0)
    async with site() as local, fetcher(local.key) as web_:
        known = Robots(web_)
        local.serve("/robots.txt", "", 500)
        assert not (await known.rules(local.url)).reachable
        local.serve("/robots.txt", "")
        for _ in range(3):
            assert (await known.rules(local.url)).reachable
        assert local.asked["/robots.txt"] == 2


async def test_five_redirects_are_followed_and_a_sixth_is_not():
    """RFC 9309, 2.3.1.2: beyond five it counts as unavailable."""
    async with site() as local:
        for step in range(5):
            local.redirect(f"/r{step}", f"/r{step + 1}")
        local.serve("/r5", "User-agent: *\nDisallow: /x\n")
        local.redirect("/robots.txt", "/r1")
        assert not (await rules_for(local)).allowed(f"{local.url}/x")
        local.redirect("/robots.txt", "/r0")
        assert (await rules_for(local)).allowed(f"{local.url}/x")


async def test_a_redirect_out_of_bounds_forbids_all():
    """The guard stands before robots.txt as well."""
    async with site() as local:
        local.redirect("/robots.txt", "http://169.254.169.254/robots.txt")
        assert not (await rules_for(local)).reachable


async def test_a_huge_robots_txt_is_read_up_to_its_limit():
    """Rules before the limit hold; a line that is cut in two does not."""
    async with site() as local:
        line = "Disallow: /long/" + "x" * 1000 + "\n"
        local.serve(
            "/robots.txt", "User-agent: *\nDisallow: /x\n" + line * (MAX_ROBOTS_BYTES // 1000) + "Disallow: /y\n"
        )
        found = await rules_for(local)
        assert not found.allowed(f"{local.url}/x")
        assert found.allowed(f"{local.url}/y")
        assert found.allowed(f"{local.url}/long/x")


async def test_callers_at_once_share_one_request():
    """And a caller who gives up does not take it from the others."""
    asked, release = asyncio.Event(), asyncio.Event()
    async with site() as local, fetcher(local.key) as web_:

        @local.page("/robots.txt")
        async def page(request):
            asked.set()
            await release.wait()
            return web.Response(text="User-agent: *\nDisallow: /x\n")

        known = Robots(web_)
        callers = [asyncio.create_task(known.rules(f"{local.url}/{n}")) for n in range(10)]
        await asyncio.wait_for(asked.wait(), 20)
        callers[0].cancel()
        await asyncio.sleep(0)
        release.set()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(not rules.allowed(f"{local.url}/x") for rules in found[1:])
        assert local.asked["/robots.txt"] == 1


async def test_when_every_caller_gives_up_the_request_ends():
    """Nothing of a cancelled job stays on the wire; who asks next starts anew."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if asked.is_set():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        asked.set()
        await reader.read()
        gone.set()

    async with raw_server(talk) as key, fetcher(key) as web_:
        known = Robots(web_)
        callers = [asyncio.create_task(known.rules(f"http://{key}/")) for _ in range(3)]
        await asyncio.wait_for(asked.wait(), 20)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert (await known.rules(f"http://{key}/")).reachable
        await asyncio.wait_for(gone.wait(), 20)


async def test_an_origin_that_may_not_be_fetched_is_refused():
    """The guard's word, not an empty rule."""
    async with fetcher() as web_:
        with pytest.raises(FetchRefused):
            await Robots(web_).rules("http://10.0.0.1/")
