import asyncio
import gzip
import tracemalloc
import zlib

import brotli
import pytest
from aiohttp import web

from ke.contracts.errors import FetchRefused
from ke.web.errors import (
    BadResponse,
    BadUrl,
    FetchFailed,
    FetchTimeout,
    RedirectRefused,
    TooLarge,
    TooManyRedirects,
    UnsupportedType,
)
from ke.web.response import MAX_ERROR_BODY_BYTES, Retry, classify
from tests.integration.web_site import fetcher, raw_server, site


async def test_a_page_comes_with_what_a_crawl_needs():
    """Type, charset, validators, body and sizes."""
    async with site() as local, fetcher(local.key) as web_:
        local.serve(
            "/a",
            "<p>é",
            Content_Type="Text/HTML; charset=UTF-8",
            ETag='"1"',
            Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT",
        )
        got = await web_.fetch(f"{local.url}/a#part")
    assert (got.url, got.final_url, got.redirects) == (f"{local.url}/a", f"{local.url}/a", ())
    assert (got.status, got.content_type, got.charset) == (200, "text/html", "utf-8")
    assert (got.etag, got.last_modified) == ('"1"', "Thu, 01 Jan 2026 00:00:00 GMT")
    assert (got.body, got.bytes_read, got.truncated) == ("<p>é".encode(), 5, False)
    assert got.elapsed_s > 0


async def test_what_is_sent_names_the_crawler_and_the_known_version():
    """User agent, Accept, compression and validators; no cookie ever."""
    async with site() as local, fetcher(local.key) as web_:
        local.serve("/a", status=304, Set_Cookie="id=1; Path=/")
        got = await web_.fetch(f"{local.url}/a", etag='"1"', last_modified="Thu, 01 Jan 2026 00:00:00 GMT")
        await web_.fetch(f"{local.url}/a")
        first, second = (request.headers for request in local.headers)
    assert got.status == 304
    assert first["User-Agent"] == "ke-test/1.0"
    assert first["Accept"].startswith("text/html")
    assert {"gzip", "deflate", "br"} <= {coding.strip() for coding in first["Accept-Encoding"].split(",")}
    assert (first["If-None-Match"], first["If-Modified-Since"]) == ('"1"', "Thu, 01 Jan 2026 00:00:00 GMT")
    assert "If-None-Match" not in second
    assert "Cookie" not in second


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)]
)
async def test_compressed_bodies_are_read(coding, compress):
    """The body is plain, and `bytes_read` is what came over the wire."""
    plain = b"some text " * 1000
    async with site() as local, fetcher(local.key) as web_:
        local.serve("/a", compress(plain), Content_Encoding=coding)
        got = await web_.fetch(f"{local.url}/a")
    assert got.body == plain
    assert got.bytes_read == len(compress(plain))


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_a_decompression_bomb_is_refused_without_growing(coding):
    """A few kilobytes that unpack to 200 MB stop at the limit, and before it the memory for it is not taken."""
    async with site() as local, fetcher(local.key) as web_:
        local.serve("/bomb", bomb(coding, 200), Content_Encoding=coding)
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match="1,000,000"):
                await web_.fetch(f"{local.url}/bomb")
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes < 10_000_000


def bomb(coding, megabytes):
    million = bytes(1_000_000)
    if coding == "br":
        packer = brotli.Compressor(quality=2)
        return b"".join(packer.process(million) for _ in range(megabytes)) + packer.finish()
    zipper = zlib.compressobj(wbits=31)
    return b"".join(zipper.compress(million) for _ in range(megabytes)) + zipper.flush()


async def test_a_body_over_the_limit_is_refused_or_cut():
    """With a length announced, without one, and when the caller takes a part."""
    async with site() as local, fetcher(local.key, max_bytes=1000) as web_:
        local.serve("/announced", b"x" * 1001)

        @local.page("/stream")
        async def stream(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            for _ in range(100):
                await answer.write(b"x" * 100)
            return answer

        local.serve("/fits", b"x" * 1000)
        for path in ("/announced", "/stream"):
            with pytest.raises(TooLarge, match="1,000") as refused:
                await web_.fetch(local.url + path)
            assert not refused.value.retryable
            part = await web_.fetch(local.url + path, truncate=True)
            assert (len(part.body), part.truncated) == (1000, True)
        assert len((await web_.fetch(f"{local.url}/fits")).body) == 1000


async def test_unwanted_types_are_not_downloaded():
    """The answer is dropped at its headers."""
    async with site() as local, fetcher(local.key) as web_:
        local.serve("/film", b"x" * 5_000_000, Content_Type="video/mp4")
        with pytest.raises(UnsupportedType, match="video/mp4") as refused:
            await web_.fetch(f"{local.url}/film", types=frozenset({"text/html"}))
    assert refused.value.content_type == "video/mp4"


async def test_redirects_are_followed_and_recorded():
    """Relative ones too; the final URL is canonical."""
    async with site() as local, fetcher(local.key) as web_:
        local.redirect("/a", "b?x#y", 301)
        local.redirect("/b", f"HTTP://127.0.0.1:{local.port}/c/", 308)
        local.serve("/c/", "there")
        got = await web_.fetch(f"{local.url}/a")
    assert got.body == b"there"
    assert got.url == f"{local.url}/a"
    assert got.redirects == (f"{local.url}/a", f"{local.url}/b?x")
    assert got.final_url == f"{local.url}/c/"


async def test_redirects_end_somewhere():
    """A circle is seen at once, a long chain at its limit."""
    async with site() as local, fetcher(local.key) as web_:
        local.redirect("/a", "/b")
        local.redirect("/b", "/a")
        with pytest.raises(TooManyRedirects, match="circle"):
            await web_.fetch(f"{local.url}/a")
        assert local.asked.total() == 2
        for step in range(20):
            local.redirect(f"/{step}", f"/{step + 1}")
        with pytest.raises(TooManyRedirects, match="more than 10"):
            await web_.fetch(f"{local.url}/0")
        assert local.asked["/10"] == 1
        assert local.asked["/11"] == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://[::ffff:10.0.0.1]/",
        "file:///etc/passwd",
        "ftp://h/",
        "http://user:pass@h/",
        "http://[",
        "http://127.0.0.1:1/",
    ],
)
async def test_a_redirect_out_of_bounds_is_refused(location):
    """From a site that is allowed, to what is not: another address, another port, another scheme."""
    async with site() as local, fetcher(local.key) as web_:
        local.redirect("/a", location)
        with pytest.raises(FetchRefused, match="redirects to") as refused:
            await web_.fetch(f"{local.url}/a")
    assert not refused.value.retryable


async def test_the_caller_may_stop_at_a_redirect():
    """A crawl that stays on its host does not follow a redirect away from it."""

    async def follow(url):
        return "on another host" if url.endswith("/away") else None

    async with site() as local, fetcher(local.key) as web_:
        local.redirect("/a", "/b")
        local.redirect("/b", "/away")
        with pytest.raises(RedirectRefused, match="on another host") as refused:
            await web_.fetch(f"{local.url}/a", follow=follow)
        assert local.asked["/away"] == 0
    assert refused.value.extra["target"] == f"{local.url}/away"


async def test_a_name_that_resolves_to_the_loopback_is_refused_unasked():
    """What a hostile name server answers is checked, and nothing is dialled."""
    lookups = []

    async def lookup(host, port):
        lookups.append(host)
        return ["127.0.0.1"]

    async with site() as local, fetcher(local.key, lookup=lookup) as web_:
        with pytest.raises(FetchRefused, match=r"public\.example"):
            await web_.fetch(f"http://public.example:{local.port}/")
        assert local.asked.total() == 0
    assert lookups == ["public.example"]


async def test_a_name_is_resolved_once_for_check_and_connection():
    """A second answer, which could be another one, is never asked for: the address dialled is the one checked."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])

    async def lookup(host, port):
        return next(answers)

    async with site() as local:
        key = f"intranet.example:{local.port}"
        local.serve("/a")
        async with fetcher(key, lookup=lookup) as web_:
            for _ in range(3):
                assert (await web_.fetch(f"http://{key}/a")).body == b"ok"
        assert local.headers[0].headers["Host"] == key


async def test_a_slow_server_times_out_in_header_and_body():
    """The limit is on the whole, however steadily it drips."""

    async def silent(reader, writer):
        await reader.read()

    async def drip(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    for talk in (silent, drip):
        async with raw_server(talk) as key, fetcher(key, timeout_s=0.3) as web_:
            with pytest.raises(FetchTimeout, match=r"0\.3 s") as slow:
                await web_.fetch(f"http://{key}/")
            assert slow.value.retryable


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
    ],
    ids=["nothing", "short body", "short chunk"],
)
async def test_a_connection_that_breaks_is_tried_again(said):
    """Before the answer and within it."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with raw_server(talk) as key, fetcher(key) as web_:
        with pytest.raises(FetchFailed) as broken:
            await web_.fetch(f"http://{key}/")
    assert broken.value.retryable


async def test_no_server_and_no_name_are_tried_again():
    """They may be back later."""
    async with site() as local:
        key = local.key

    async def lookup(host, port):
        raise OSError("no such name")

    async with fetcher(key, lookup=lookup) as web_:
        with pytest.raises(FetchFailed, match="no connection"):
            await web_.fetch(f"http://{key}/")
        with pytest.raises(FetchFailed, match="could not be resolved") as failed:
            await web_.fetch("http://nothing.example/")
    assert failed.value.retryable


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
    ],
    ids=["long header", "many headers", "other protocol", "two lengths", "not gzip"],
)
async def test_an_answer_that_is_not_http_is_final(said):
    """Oversized headers and broken encodings will be the same next time."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with raw_server(talk) as key, fetcher(key) as web_:
        with pytest.raises(BadResponse) as bad:
            await web_.fetch(f"http://{key}/")
    assert not bad.value.retryable


async def test_https_to_a_plain_server_is_an_error_of_ours():
    """Whatever TLS says about it."""
    async with site() as local, fetcher(local.key) as web_:
        with pytest.raises(FetchFailed):
            await web_.fetch(f"https://127.0.0.1:{local.port}/")


async def test_errors_keep_a_bounded_body():
    """A long error page is cut; the status is the caller's to judge."""
    async with site() as local, fetcher(local.key) as web_:
        local.serve("/busy", b"x" * 10 * MAX_ERROR_BODY_BYTES, 503, Retry_After="7")
        got = await web_.fetch(f"{local.url}/busy")
    assert classify(got) == Retry("HTTP 503", 7.0)
    assert (len(got.body), got.truncated) == (MAX_ERROR_BODY_BYTES, True)


async def test_a_cancelled_fetch_closes_its_connection_at_once():
    """In the middle of a body; the fetcher goes on working."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nstart")
        await writer.drain()
        begun.set()
        await reader.read()
        gone.set()

    async with raw_server(talk) as key, site() as local, fetcher(key, local.key) as web_:
        local.serve("/a")
        task = asyncio.create_task(web_.fetch(f"http://{key}/"))
        await asyncio.wait_for(begun.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 20)
        assert (await web_.fetch(f"{local.url}/a")).status == 200


async def test_connections_are_reused_and_bounded():
    """Many fetches at once share the few connections to a host."""
    open_now, most = set(), 0

    async with site() as local, fetcher(local.key, connections_per_host=2) as web_:

        @local.page("/a")
        async def page(request):
            nonlocal most
            open_now.add(request.transport)
            most = max(most, len(open_now))
            return web.Response(text="ok")

        await asyncio.gather(*(web_.fetch(f"{local.url}/a") for _ in range(20)))
    assert most <= 2


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://u@h/", "http://h/\x00", "http://h/" + "x" * 100_000, "nonsense", ""]
)
async def test_a_bad_url_is_refused_before_anything_is_sent(url):
    """As invalid input."""
    async with fetcher() as web_:
        with pytest.raises(BadUrl):
            await web_.fetch(url)


async def test_a_url_is_requested_as_it_is_written():
    """No layer in between decodes or encodes it again."""
    async with site() as local, fetcher(local.key) as web_:
        await web_.fetch(f"{local.url}/a%2Fb%20c%C3%A9?q=%26+%2B&x=a|b'")
        assert local.headers[0].raw_path == "/a%2Fb%20c%C3%A9?q=%26+%2B&x=a|b%27"
