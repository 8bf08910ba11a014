"""Problem documents, cursors and preferences."""

import base64
import json
import uuid

import pytest

from api import errors, problems
from api.errors import BadCursor, NotCancellable
from api.pagination import rank_slice_of, signing_key, slice_of, url_slice_of
from api.routes.params import preferred_wait_s
from ke.contracts.errors import NotFound, TemporalUnavailable

KEY = signing_key("postgresql://ke:secret@one/ke")


def test_every_refusal_has_its_own_code_title_and_status() -> None:
    """No two refusals of the gateway read the same, and none reads as a fault of the gateway's."""
    kinds = [kind for kind in vars(errors).values() if getattr(kind, "__module__", "") == "api.errors"]
    documents = [problems.document(kind(), "/jobs") for kind in kinds]
    assert len({document["type"] for document in documents}) == len(kinds)
    assert len({document["title"] for document in documents}) == len(kinds)
    assert all(400 <= document["status"] < 500 or document["status"] == 503 for document in documents)


def test_document_has_the_members_of_its_error() -> None:
    """Type, status, detail and the error's own members are in the document; empty ones are not."""
    error = NotCancellable("It is done.", current_status="completed", allowed_actions=["delete"], nothing=None)
    assert problems.document(error, "/jobs/1/cancel") == {
        "type": "urn:ke:problem:not-cancellable",
        "title": "The job is in no state in which it can be cancelled",
        "status": 409,
        "detail": "It is done.",
        "instance": "/jobs/1/cancel",
        "current_status": "completed",
        "allowed_actions": ["delete"],
    }


def test_unavailable_tells_when_to_try_again() -> None:
    """A 503 has Retry-After."""
    response = problems.response(TemporalUnavailable(), "/jobs")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert response.headers["content-type"] == "application/problem+json"


def test_internal_error_shows_nothing_of_the_inside() -> None:
    """A fault of the gateway's says so, and no more."""
    document = json.loads(bytes(problems.internal_error("/jobs").body))
    assert (document["type"], document["status"]) == ("urn:ke:problem:internal", 500)
    assert document["detail"] == "The gateway failed; its log says why."


def test_common_errors_keep_their_status() -> None:
    """An error of the stores reads with its own code."""
    assert problems.document(NotFound("No job."), "/")["status"] == 404


@pytest.mark.parametrize(("steps", "pointer"), [((), ""), (("urls", 3), "/urls/3"), (("a/b", "~"), "/a~1b/~0")])
def test_pointers_are_escaped(steps: tuple[str | int, ...], pointer: str) -> None:
    """A JSON pointer escapes slash and tilde (RFC 6901)."""
    assert problems.pointer_of(steps) == pointer


def test_cursor_leads_on_in_its_own_list_only() -> None:
    """A cursor gives back its place for the same list and filters, and is refused anywhere else."""

    class Row:
        def __init__(self, seq: int) -> None:
            self.seq = seq

    part = slice_of(KEY, 2, None, "jobs", "a")
    cursor = part.next_cursor([Row(9), Row(7), Row(3)], lambda row: row.seq)
    assert cursor is not None
    assert slice_of(KEY, 2, cursor, "jobs", "a").after == 7
    for scope in (("jobs", "b"), ("pages", "a"), ("jobs",)):
        with pytest.raises(BadCursor):
            slice_of(KEY, 2, cursor, *scope)
    with pytest.raises(BadCursor):
        slice_of(signing_key("postgresql://ke:other@one/ke"), 2, cursor, "jobs", "a")


def test_no_bit_of_a_cursor_can_be_changed() -> None:
    """A cursor with any bit flipped, in its place as in its signature, is refused."""
    cursor = slice_of(KEY, 1, None, "jobs").next_cursor([7, 3], int)
    assert cursor is not None
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadCursor):
            slice_of(KEY, 1, base64.urlsafe_b64encode(forged).decode().rstrip("="), "jobs")


def test_cursors_keep_all_that_the_order_of_their_list_needs() -> None:
    """A place is written down whole, a URL of any length too, and is none in a list of another order."""
    url = (f"https://site.example/{'a' * 2027}", -5)
    by_url = url_slice_of(KEY, 1, None, "list").next_cursor([url, url], tuple)
    rank = (7, uuid.uuid4())
    by_rank = rank_slice_of(KEY, 1, None, "list").next_cursor([rank, rank], tuple)
    assert url_slice_of(KEY, 1, by_url, "list").after == url
    assert rank_slice_of(KEY, 1, by_rank, "list").after == rank
    for cursor in (by_url, by_rank):
        with pytest.raises(BadCursor):
            slice_of(KEY, 1, cursor, "list")


def test_gateways_of_one_database_take_each_others_cursors() -> None:
    """The key stays the same at another address of the same database."""
    assert signing_key("postgresql://ke:secret@two:6543/ke") == KEY


def test_last_part_has_no_cursor() -> None:
    """A part that is not longer than its limit is the last."""
    assert slice_of(KEY, 2, None, "jobs").next_cursor([1, 2], int) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("wait=30", 30),
        ("respond-async, wait=10", 10),
        ("respond-async; wait = 10", 10),
        ('wait="5"', 5),
        ("wait=1000", 60),
        ("wait=-1", 0),
        ("Wait=7", 7),
        ("wait=" + "9" * 2000, 60),
        ("await=5", 0),
        ("wait=soon", 0),
    ],
)
def test_preferred_wait_is_read_and_never_refused(header: str | None, seconds: float) -> None:
    """`Prefer: wait=` asks for a time; what it says otherwise counts for nothing."""
    assert preferred_wait_s(header) == seconds
