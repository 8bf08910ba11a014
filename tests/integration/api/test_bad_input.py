"""Bad input: a specific problem each."""

import json
import re
import uuid
from typing import Any

import pytest

from tests.integration.api.stack import QUICK, ApiStack

SCRAPE = {"kind": "scrape", "urls": [QUICK]}
CRAWL = {"kind": "crawl", "seeds": [QUICK]}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/kind"),
        ({"kind": "scrap", "urls": [QUICK]}, "/kind"),
        ({"kind": "scrape"}, "/urls"),
        ({**SCRAPE, "urls": []}, "/urls"),
        ({**SCRAPE, "urls": "https://site.example/"}, "/urls"),
        ({**SCRAPE, "urls": [QUICK] * 1001}, "/urls"),
        ({**SCRAPE, "urls": [QUICK, 7]}, "/urls/1"),
        ({**SCRAPE, "urls": [QUICK, "ftp://site.example/"]}, "/urls/1"),
        ({**SCRAPE, "urls": ["file:///etc/passwd"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["https://me:secret@site.example/"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["https://site.example/\x00"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["https://site.example/" + "a" * 100_000]}, "/urls/0"),
        ({**SCRAPE, "urls": ["http://127.0.0.1:8000/"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["http://[::1]/"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["http://0x7f.1/"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["http://169.254.169.254/latest/"]}, "/urls/0"),
        ({**SCRAPE, "urls": ["http://localhost/"]}, "/urls/0"),
        ({**SCRAPE, "frobnicate": 1}, "/frobnicate"),
        ({**SCRAPE, "a/b~c": 1}, "/a~1b~0c"),
        ({**SCRAPE, "reading": "quick"}, "/reading"),
        ({**SCRAPE, "project": "no spaces please"}, "/project"),
        ({**SCRAPE, "project": "x" * 65}, "/project"),
        ({**SCRAPE, "labels": {str(n): "" for n in range(33)}}, "/labels"),
        ({**SCRAPE, "labels": {"a": "b" * 257}}, "/labels/a"),
        ({**SCRAPE, "labels": {"x" * 65: "b"}}, "/labels/" + "x" * 65),
        ({**SCRAPE, "labels": {"[key]": 1}}, "/labels/[key]"),
        ({**SCRAPE, "labels": {"a": "\x00"}}, "/labels/a"),
        ({**SCRAPE, "labels": {"a": 1}}, "/labels/a"),
        ({**SCRAPE, "extract": {"chunk_size": 0}}, "/extract/chunk_size"),
        ({**SCRAPE, "extract": {"chunk_size": "50"}}, "/extract/chunk_size"),
        ({**SCRAPE, "extract": {"chunk_size": True}}, "/extract/chunk_size"),
        ({**SCRAPE, "extract": {"chunk_tokens": 15}}, "/extract/chunk_tokens"),
        ({**SCRAPE, "extract": {"embedder": "nobody"}}, "/extract/embedder"),
        ({**SCRAPE, "extract": {"entities": "nobody"}}, "/extract/entities"),
        ({**SCRAPE, "extract": {"source_job_id": "x"}}, "/extract/source_job_id"),
        ({**CRAWL, "limits": {"max_pages": 0}}, "/limits/max_pages"),
        ({**CRAWL, "limits": {"max_pages": 1_000_001}}, "/limits/max_pages"),
        ({**CRAWL, "limits": {"max_depth": 51}}, "/limits/max_depth"),
        ({**CRAWL, "limits": {"max_bytes": 2**63}}, "/limits/max_bytes"),
        ({**CRAWL, "rate": {"concurrency": 65}}, "/rate/concurrency"),
        ({**CRAWL, "rate": {"delay_s": -1}}, "/rate/delay_s"),
        ({**CRAWL, "scope": {"include": ["("]}}, "/scope/include/0"),
        ({**CRAWL, "scope": {"robots": "yes"}}, "/scope/robots"),
        ({"kind": "extract"}, ""),
        ({"kind": "extract", "source_ids": []}, "/source_ids"),
        ({"kind": "extract", "source_job_id": "not-an-id"}, "/source_job_id"),
        ([], ""),
        (7, ""),
    ],
)
async def test_submit_points_at_what_is_wrong(api: ApiStack, body: Any, pointer: str) -> None:
    """A body that does not fit is refused with a JSON pointer to the place, and nothing is accepted."""
    answer = await api.http.post("/jobs", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:ke:problem:validation-failed"), answer.text
    assert problem["errors"][0]["pointer"] == pointer
    assert problem["errors"][0]["detail"]


@pytest.mark.parametrize("raw", [b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"kind": "scrape",}'])
async def test_what_is_not_json_is_told_so(api: ApiStack, raw: bytes) -> None:
    """A body that is not JSON, or missing, is a problem, never a crash."""
    answer = await api.http.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"limit": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"kind": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"kind": "scrape", "urls": ["https://e.com/"], "urls": []}', "'urls' more than once"),
        (b'{"kind": "crawl", "seeds": ["https://e.com/"], "limits": {"max_pages": 1, "max_pages": 9}}', "'max_pages'"),
    ],
)
async def test_json_that_cannot_be_read_is_told_why(api: ApiStack, raw: bytes, words: str) -> None:
    """JSON that is too deep, too big a number, or not UTF-8 is told which of these it is."""
    answer = await api.http.post("/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:ke:problem:malformed-json")
    assert words in answer.json()["detail"]


async def test_one_wrong_url_is_one_error(api: ApiStack) -> None:
    """A list whose only entry does not fit is not called too short as well; types are called as JSON calls them."""
    for urls, words in (([7], "/urls/0"), ([], "must have at least 1 member"), ("x", "must be an array")):
        problem = (await api.http.post("/jobs", json={**SCRAPE, "urls": urls})).json()
        assert len(problem["errors"]) == 1
        assert words in problem["detail"]


async def test_other_media_types_are_refused(api: ApiStack) -> None:
    """A form, or a body without a type, is 415."""
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = await api.http.post("/jobs", content=json.dumps(SCRAPE), headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (415, "urn:ke:problem:unsupported-media-type")


async def test_too_long_bodies_are_refused(api: ApiStack) -> None:
    """More than 256 KB is 413, whether its length is told or not."""
    raw = json.dumps({**SCRAPE, "labels": {"a": "b" * 300_000}}).encode()

    async def unannounced() -> Any:
        for start in range(0, len(raw), 10_000):
            yield raw[start : start + 10_000]

    for content in (raw, unannounced()):
        answer = await api.http.post("/jobs", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:ke:problem:payload-too-large")


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=201", "limit"),
        ("/jobs?limit=ten", "limit"),
        ("/jobs?kind=nothing", "kind"),
        ("/jobs?status=nothing", "status"),
        ("/jobs?created_after=yesterday", "created_after"),
        ("/jobs?created_after=2026-01-01T00:00:00", "created_after"),
        ("/jobs?created_after=0001-01-01T00:00:00%2B14:00", "created_after"),
        ("/jobs?created_before=9999-12-31T23:59:59-14:00", "created_before"),
        ("/jobs?project=a%00b", "project"),
        ("/jobs?statuss=running", "statuss"),
        ("/jobs?kind=crawl&kind=scrape", "kind"),
        ("/jobs/0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11?wait=61", "wait"),
        ("/jobs/0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11?wait=nan", "wait"),
        ("/jobs/0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11/sources?state=odd", "state"),
    ],
)
async def test_parameters_out_of_range_are_refused(api: ApiStack, path: str, parameter: str) -> None:
    """A parameter that does not fit is refused by name, never clamped."""
    answer = await api.http.get(path)
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, parameter), answer.text


async def test_parameters_are_refused_without_the_words_of_a_library(api: ApiStack) -> None:
    """Whatever is sent for whichever parameter of a list: a sentence that says what it must be."""
    rubbish = ["", "x", "-1", "1.5", "nan", "1e999", "9" * 5000, "x" * 5000, "a\x00b", "\x1b[31m", "2026-01-01", "null"]
    told = set()
    for path, methods in api.app.openapi()["paths"].items():
        place = re.sub(r"{\w+}", str(uuid.uuid4()), path)
        for parameter in methods.get("get", {}).get("parameters", ()):
            if parameter["in"] != "query":
                continue
            for value in rubbish:
                answer = await api.http.get(place, params={parameter["name"]: value})
                if answer.status_code == 422:
                    told |= {answer.json()["detail"]}
    assert len(told) > 10
    of_a_library = ("Input", "input", "valid ", "String", "pars", "pattern")
    assert [line for line in told if any(word in line for word in of_a_library) or not line.isprintable()] == []


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "This must not be empty."),
        ("a b", "A key has visible ASCII characters only, and no spaces."),
        ("ü", "A key has visible ASCII characters only, and no spaces."),
        ("x" * 256, "This must have at most 255 characters."),
    ],
)
async def test_idempotency_keys_are_visible_ascii(api: ApiStack, key: str, told: str) -> None:
    """A key is 1 to 255 visible ASCII characters."""
    answer = await api.http.post("/jobs", json=SCRAPE, headers=[(b"Idempotency-Key", key.encode())])
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "Idempotency-Key")
    assert answer.json()["errors"][0]["detail"] == told


async def test_moments_at_the_edge_of_the_calendar_are_taken(api: ApiStack) -> None:
    """The first and the last moment in UTC are filters like others."""
    path = "/jobs?created_after=0001-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999Z"
    assert (await api.http.get(path)).status_code == 200


async def test_two_idempotency_keys_are_refused(api: ApiStack) -> None:
    """It is not guessed which of two keys is meant."""
    answer = await api.http.post("/jobs", json=SCRAPE, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "Idempotency-Key")


async def test_contrary_wishes_for_deletion_are_refused(api: ApiStack) -> None:
    """A parameter that is given twice is not guessed at: nothing is deleted."""
    job_id = await api.ended()
    answer = await api.http.delete(f"/jobs/{job_id}?cleanup=false&cleanup=true")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "cleanup")
    assert (await api.http.get(f"/jobs/{job_id}")).status_code == 200


async def test_methods_that_are_not_there(api: ApiStack) -> None:
    """A wrong method is 405 with the methods there are."""
    answer = await api.http.put("/jobs", json={})
    assert (answer.status_code, answer.json()["type"]) == (405, "urn:ke:problem:method-not-allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    answer = await api.http.put(f"/jobs/{uuid.uuid4()}", json={})
    assert answer.headers["Allow"] == "DELETE, GET, HEAD"


async def test_head_is_get_without_the_body(api: ApiStack) -> None:
    """HEAD has the status and the headers of GET, where there is a GET."""
    for path in ("/jobs", "/healthz", f"/jobs/{uuid.uuid4()}"):
        head, get = await api.http.head(path), await api.http.get(path)
        assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
        assert head.content == b""
    answer = await api.http.head("/search")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


async def test_cancel_body_is_checked(api: ApiStack) -> None:
    """A reason that is too long and unknown fields are refused before anything is cancelled."""
    job_id = await api.ended()
    for body, pointer in (({"reason": "x" * 501}, "/reason"), ({"now": True}, "/now"), ({"cleanup": 1}, "/cleanup")):
        answer = await api.http.post(f"/jobs/{job_id}/cancel", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
async def test_foreign_host_names_are_refused(api: ApiStack, host: str) -> None:
    """A page that points a name of its own at this machine reads nothing."""
    answer = await api.http.get("/jobs", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["type"] == "urn:ke:problem:wrong-host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "[::1]:8080", "127.0.0.1"])
async def test_own_host_names_are_served(api: ApiStack, host: str) -> None:
    """The loopback names work, with any port."""
    assert (await api.http.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "header", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
async def test_page_of_another_site_changes_nothing(api: ApiStack, header: dict[str, str]) -> None:
    """A form on a foreign page cannot post here; reading is up to the browser's own rules."""
    answer = await api.http.post("/jobs", headers=header, json={})
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:ke:problem:cross-site"
    assert (await api.http.get("/jobs", headers=header)).status_code == 200


@pytest.mark.parametrize("origin", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:9"])
async def test_page_of_this_host_may_change_things(api: ApiStack, origin: str) -> None:
    """A page that the gateway's own host served is not foreign; its body is looked at."""
    assert (await api.http.post("/jobs", headers={"Origin": origin}, json={})).status_code == 422
