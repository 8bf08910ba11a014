from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ke.web.response import MAX_RETRY_AFTER_S, Fail, Ok, Response, Retry, classify, parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def response(status, retry_after_s=None):
    return Response(
        "u", "u", (), status, "", None, None, None, retry_after_s, b"", truncated=False, bytes_read=0, elapsed_s=0
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 7 ", 7),
        ("999999999999999999999", MAX_RETRY_AFTER_S),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=1), usegmt=True), MAX_RETRY_AFTER_S),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    """Capped, never negative, and None for what cannot be read."""
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("status", [200, 204, 206, 304])
def test_success_is_ok(status):
    """304 included: the page is unchanged."""
    assert classify(response(status)) == Ok()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(status):
    """When it said, if it did."""
    assert classify(response(status, 3.0)) == Retry(f"HTTP {status}", 3.0)
    assert classify(response(status)) == Retry(f"HTTP {status}", None)


@pytest.mark.parametrize("status", [300, 305, 400, 401, 403, 404, 410, 418, 451, 501, 505])
def test_any_other_answer_is_final(status):
    """Asking again would change nothing."""
    assert classify(response(status)) == Fail(f"HTTP {status}")
