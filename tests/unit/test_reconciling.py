"""When a reconciliation stops, and how findings add up."""

import pytest

from ke.contracts.reconciling import LOST_AT_ONCE, MAX_EXAMPLES, Finding, FindingKind, brake_message, is_too_much

POINTS, JOBS = FindingKind.POINTS_WITHOUT_ROWS, FindingKind.OPEN_JOBS


@pytest.mark.parametrize(
    ("at_stake", "checked", "max_share", "expected"),
    [(0, 0, 0.1, False), (0, 0, 0.0, False), (1, 10, 0.1, False), (2, 10, 0.1, True), (1, 10, 0.0, True)],
)
def test_share_bounds_what_may_be_deleted(*, at_stake: int, checked: int, max_share: float, expected: bool) -> None:
    """As much as the share goes, one more is too much, and with a share of 0 nothing goes."""
    assert is_too_much(Finding(POINTS, checked=checked, found=at_stake, at_stake=at_stake), max_share) is expected


def test_with_a_share_of_one_anything_goes() -> None:
    """All of a store may be deleted when that was asked for."""
    assert not is_too_much(Finding(POINTS, checked=7, found=7, at_stake=7), 1.0)


def test_a_few_lost_jobs_are_always_ended() -> None:
    """Reading them would end them too; only more than a few are held against the share."""
    assert not is_too_much(Finding(JOBS, checked=LOST_AT_ONCE, found=LOST_AT_ONCE, at_stake=LOST_AT_ONCE), 0.0)
    assert is_too_much(Finding(JOBS, checked=LOST_AT_ONCE + 1, at_stake=LOST_AT_ONCE + 1), 0.5)


def test_brake_names_only_what_is_too_much() -> None:
    """The message has the numbers of each kind that is over its share, and none without such a kind."""
    fine = Finding(FindingKind.PENDING_ROWS, checked=100, found=1, at_stake=1)
    bad = Finding(POINTS, checked=40, found=9, at_stake=9)
    assert brake_message([fine], 0.1) == ""
    message = brake_message([fine, bad], 0.1)
    assert "9 of 40 (points-without-rows)" in message
    assert "pending-rows" not in message


def test_findings_add_up() -> None:
    """Numbers are summed, examples are few, and a note is told once."""
    one = Finding(POINTS, checked=3, found=2, repaired=1, examples=("a", "b", "c"), note="Because.", at_stake=2)
    both = one + one
    assert (both.checked, both.found, both.repaired, both.at_stake) == (6, 4, 2, 4)
    assert len(both.examples) == MAX_EXAMPLES
    assert both.note == "Because."
