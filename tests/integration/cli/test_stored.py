"""The commands that read what jobs have stored."""

import uuid

from tests.integration.api_twin import ApiTwin
from tests.integration.cli.process import RunKe, document


def test_search_shows_hits_and_no_control_characters(ke: RunKe, api: ApiTwin) -> None:
    """A page cannot write to the terminal: escape sequences and markup come out as plain text."""
    api.hits = [
        {"text": "a \x1b[31mred\x1b[0m [bold]lamp[/bold]", "score": 0.5, "url": "https://e.com/\x07", "id": "1"}
    ]
    done = ke("search", "lamps", "--limit", "3", "--project", "docs")
    assert done.returncode == 0, done.stderr
    assert "[bold]lamp[/bold]" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07"}
    assert api.calls[-1].body == {"query": "lamps", "limit": 3, "project": "docs"}
    assert document(ke("search", "lamps", "--json"))["data"] == api.hits


def test_search_sends_every_filter_that_is_given(ke: RunKe, api: ApiTwin) -> None:
    """Each option is a member of the body, by the API's name; what is not given is not sent."""
    job = api.add_job("completed")
    options = {
        "mode": "text",
        "project": "docs",
        "url_prefix": "https://e.com/",
        "language": "en",
        "date_from": "2024-01-01",
        "date_to": "2024-12-31",
        "entity": "Ada",
        "entity_label": "PERSON",
        "embedder": "minilm",
        "rerank": "minilm",
    }
    api.hits = [{"text": "a lamp", "score": 0.5, "url": "https://e.com/", "id": "1"}]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert ke("search", "lamps", *given, "--job", job, "--every-chunk", "--json").returncode == 0
    expected = {"query": "lamps", "limit": 5, "job_ids": [job], "distinct_sources": False, **options}
    assert api.calls[-1].body == expected


def test_search_shows_the_snippet_and_that_there_may_be_more(ke: RunKe, api: ApiTwin) -> None:
    """The part with the query's words is shown, not the beginning; an answer that is not complete says so."""
    snippet = {"text": "one\n lamp \x1b[0m more", "start": 100, "marks": [[5, 9]]}
    api.hits = [{"text": "beginning", "snippet": snippet, "score": 0.5, "url": "https://e.com/", "id": "1"}]
    api.complete = False
    done = ke("search", "lamps")
    assert "one lamp " in done.stdout
    assert "beginning" not in done.stdout
    assert "\x1b" not in done.stdout
    assert "There may be more" in done.stdout


def test_search_keeps_the_rows_of_a_table_apart(ke: RunKe, api: ApiTwin) -> None:
    """A snippet is shown in one piece, whose line breaks are gone: a slash ends a row, and marks stay."""
    snippet = {"text": "The towers\n\nName | Height\nBell Rock | 35 m\n\nmore", "start": 0, "marks": [[26, 30]]}
    api.hits = [{"text": "", "snippet": snippet, "url": "https://e.com/", "id": "1"}]
    assert "The towers Name | Height / Bell Rock | 35 m / more" in ke("search", "bell").stdout


def test_an_empty_list_of_sources_says_where_to_look(ke: RunKe, api: ApiTwin) -> None:
    """Which command goes on depends on what was asked for; without anything to go by it is wrong usage."""
    job = api.add_job("completed")
    assert f"ke jobs get {job}" in ke("sources", "list", job).stdout
    assert f"ke sources list {job}" in ke("sources", "list", job, "--state", "failed").stdout
    assert "ke jobs list" in ke("sources", "list", "--url-prefix", "https://e.com/").stdout
    assert "ke jobs list" in ke("sources", "list").stderr
    assert api.sources == []


def test_search_over_all_projects_names_that_of_each_hit(ke: RunKe, api: ApiTwin) -> None:
    """A page that two projects have comes twice, and each hit tells whose it is; of one project that goes unsaid."""
    api.hits = [{"text": "a lamp", "url": "https://e.com/", "project": name, "id": name} for name in ("docs", "blog")]
    everywhere = ke("search", "lamps").stdout
    assert [name in everywhere for name in ("project docs", "project blog")] == [True, True]
    assert "project docs" not in ke("search", "lamps", "--project", "docs").stdout


def test_search_shows_of_which_day_a_document_is(ke: RunKe, api: ApiTwin) -> None:
    """Where it says so itself; nothing stands in the place of a day that is not known."""
    hit = {"text": "a lamp", "url": "https://e.com/", "source_id": "s1", "heading": "Lamps"}
    api.hits = [hit | {"date": "2024-05-01"}, hit | {"date": None}]
    shown = ke("search", "lamps", "--project", "docs").stdout
    assert [line.strip() for line in shown.splitlines() if "source s1" in line] == [
        "source s1  2024-05-01  Lamps",
        "source s1  Lamps",
    ]


def test_entities_are_listed_and_followed(ke: RunKe, api: ApiTwin) -> None:
    """Filters reach the gateway; a table shows spellings without what would steer a terminal, and where to go on."""
    listed = ke("entities", "list", "--project", "docs", "--label", "GPE", "--name", "bell", "--limit", "5")
    assert api.calls[-1].query == {"project": "docs", "label": "GPE", "q": "bell", "limit": "5"}
    assert all(word in listed.stdout for word in ("Bell Rock", "1,234", "the Bell Rock"))
    assert "\x1b" not in listed.stdout
    assert "--cursor more" in listed.stderr
    entity = api.entity["id"]
    assert document(ke("entities", "get", entity, "--json")) == api.entity
    assert "https://e.com/light" in ke("entities", "sources", entity).stdout
    assert "Robert Stevenson" in ke("entities", "neighbours", entity, "--limit", "3").stdout
    assert (api.calls[-1].path, api.calls[-1].query["limit"]) == (f"/entities/{entity}/neighbours", "3")
    assert ke("entities", "get", "Bell Rock").returncode == 2


def test_a_source_is_read_by_its_url(ke: RunKe, api: ApiTwin) -> None:
    """The newest of those with the URL is shown, the others are told with day, project and job; none is exit code 4."""
    url = "https://e.com/page"
    first, second = (
        {"id": str(uuid.uuid4()), "job_id": str(uuid.uuid4()), "project": project, "url": url, "text": text}
        | {"fetched_at": f"{day}T12:00:00Z"}
        for project, text, day in (("blog", "new text", "2026-03-02"), ("docs", "old text", "2026-01-01"))
    )
    api.sources = [first]
    alone = ke("sources", "get", url)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "new text" in alone.stdout
    assert api.calls[-1].path == f"/sources/{first['id']}"
    api.sources.append(second)
    several = ke("sources", "get", url, "--json")
    assert document(several)["id"] == first["id"]
    newest, older = several.stderr.splitlines()
    for line, source, day in ((newest, first, "2026-03-02"), (older, second, "2026-01-01")):
        assert all(part in line for part in (source["id"], source["job_id"], f"project {source['project']}", day))
    assert older.startswith("older: ")
    assert "old text" in ke("sources", "get", second["id"]).stdout
    missing = ke("sources", "get", "https://e.com/none")
    assert (missing.returncode, missing.stdout) == (4, "")
    assert "no document is stored with the URL https://e.com/none: with --job JOB" in missing.stderr
    sent = len(api.calls)
    wrong = ke("sources", "get", "page")
    assert (wrong.returncode, len(api.calls)) == (2, sent)
    assert "neither a source's id nor an http or https URL" in wrong.stderr


def test_sources_are_listed_by_the_beginning_of_their_urls(ke: RunKe, api: ApiTwin) -> None:
    """Of all jobs, or of one; without a job and without a beginning nothing is sent."""
    api.sources = [{"id": "s1", "url": "https://e.com/docs/a"}, {"id": "s2", "url": "https://e.com/blog"}]
    listed = document(ke("sources", "list", "--url-prefix", "https://e.com/docs/", "--json"))
    assert [source["id"] for source in listed["data"]] == ["s1"]
    job = api.add_job("completed")
    assert ke("sources", "list", job, "--url-prefix", "https://e.com/", "--state", "done").returncode == 0
    assert (api.calls[-1].path, api.calls[-1].query["url_prefix"]) == (f"/jobs/{job}/sources", "https://e.com/")
    sent = len(api.calls)
    both = ("--url", "https://e.com/", "--url-prefix", "https://e.com/")
    for options in ((), ("--state", "done", "--url-prefix", "https://e.com/"), both, (job, *both)):
        assert ke("sources", "list", *options).returncode == 2
    assert len(api.calls) == sent


def test_sources_and_pages_are_listed_by_exactly_one_url(ke: RunKe, api: ApiTwin) -> None:
    """Of a job, and sources of all jobs; where none is stored with it, the command that knows duplicates is named."""
    job = api.add_job("completed")
    api.sources = [{"id": "s1", "url": "https://e.com/a"}]
    api.pages = [{"url": "https://e.com/b", "state": "duplicate", "reason": "same as https://e.com/a"}]
    for of_job, path in (((), "/sources"), ((job,), f"/jobs/{job}/sources")):
        listed = document(ke("sources", "list", *of_job, "--url", "https://e.com/a", "--json"))
        assert [source["id"] for source in listed["data"]] == ["s1"]
        assert (api.calls[-1].path, api.calls[-1].query["url"]) == (path, "https://e.com/a")
        none = ke("sources", "list", *of_job, "--url", "https://e.com/b").stdout
        assert f"ke sources get https://e.com/b --job {(*of_job, 'JOB')[0]}" in none
    assert "same as https://e.com/a" in ke("jobs", "pages", job, "--url", "https://e.com/b").stdout
    assert (api.calls[-1].path, api.calls[-1].query["url"]) == (f"/jobs/{job}/pages", "https://e.com/b")


def test_source_is_read_by_the_url_of_a_page_that_has_it(ke: RunKe, api: ApiTwin) -> None:
    """In a job: on stderr it says which document that is, unless it is the page's own; a page may have none."""
    job, other, key = api.add_job("completed"), api.add_job("completed"), str(uuid.uuid4())
    api.sources = [{"id": key, "url": "https://e.com/a", "job_id": job, "text": "the text"}]
    has = {"source_id": key, "source_is_stored": True, "reason": None}
    api.pages = [
        {"url": "https://e.com/a", "state": "fetched", **has},
        {"url": "https://e.com/b", "state": "duplicate", **has},
        {"url": "https://e.com/old", "state": "unchanged", **has, "source_is_stored": False},
        {"url": "https://e.com/no", "state": "failed", **has, "source_id": None, "reason": "HTTP 500"},
    ]
    own = ke("sources", "get", "https://e.com/a", "--job", job)
    assert (own.returncode, own.stderr, "the text" in own.stdout) == (0, "", True)
    twin = ke("sources", "get", "https://e.com/b", "--job", job, "--json")
    assert document(twin)["id"] == key
    stored = f"its document is {key}, stored for https://e.com/a"
    assert twin.stderr == f"https://e.com/b is a duplicate in job {job}: {stored}\n"
    of_another_job = ke("sources", "get", "https://e.com/a", "--job", other).stderr
    assert f"job {other}: its document is {key}, stored by job {job}\n" in of_another_job
    for path, why in (
        ("old", f"the document that https://e.com/old had in job {job} was deleted since"),
        ("no", f"https://e.com/no has no document in job {job}: failed (HTTP 500)"),
        ("none", f"job {job} has no page with the URL https://e.com/none: ke jobs pages {job}"),
    ):
        missing = ke("sources", "get", f"https://e.com/{path}", "--job", job)
        assert (missing.returncode, missing.stdout) == (4, "")
        assert why in missing.stderr
    assert ke("sources", "get", key, "--job", job).returncode == 2


def test_source_without_a_page_is_read_by_its_url_in_its_job(ke: RunKe, api: ApiTwin) -> None:
    """As of a job that extracts what others have stored; of several with one URL none is guessed."""
    job, ids = api.add_job("completed"), [str(uuid.uuid4()) for _ in range(2)]
    api.sources = [{"id": ids[0], "url": "https://e.com/a", "job_id": "first", "text": "the text"}]
    assert "the text" in ke("sources", "get", "https://e.com/a", "--job", job).stdout
    # A redirect led there before a limit left the page out.
    left_out = {"state": "skipped", "source_id": None, "source_is_stored": None, "reason": "max_pages"}
    api.pages = [{"url": "https://e.com/b", **left_out}]
    api.sources.append({"id": ids[1], "url": "https://e.com/b", "job_id": job, "text": "the other text"})
    assert "the other text" in ke("sources", "get", "https://e.com/b", "--job", job).stdout
    api.sources[1]["url"] = "https://e.com/a"
    several = ke("sources", "get", "https://e.com/a", "--job", job)
    assert (several.returncode, all(key in several.stderr for key in ids)) == (2, True)
