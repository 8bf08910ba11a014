"""Which of a job's activities it may be waiting for."""

from dataclasses import replace
from datetime import UTC, datetime

from api.service.waiting import worth_asking
from ke.runtime.executions import PendingActivity

SHARD = PendingActivity("collect_shard", attempt=1, failure="", queue="ke-collect")
AT_WORK = replace(SHARD, started_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_shard_that_no_worker_has_is_not_waited_for_while_another_one_is_at_work() -> None:
    """The lane moves; where none is at work, or one fails or is paused, that is worth telling."""
    assert worth_asking([SHARD, AT_WORK]) == [AT_WORK]
    assert worth_asking([SHARD, SHARD]) == [SHARD, SHARD]
    for told in (replace(SHARD, failure="away"), replace(SHARD, is_paused=True)):
        assert worth_asking([told, AT_WORK]) == [AT_WORK, told]
    other = replace(SHARD, name="extract_sources")
    assert worth_asking([AT_WORK, other]) == [AT_WORK, other]


def test_activities_are_asked_in_one_order() -> None:
    """Else a job whose workers are all silent would tell now of one and now of another."""
    lanes = [replace(AT_WORK, name=name) for name in ("collect_shard", "collect_shard", "extract_sources")]
    lanes[1] = replace(lanes[1], started_at=datetime(2026, 1, 2, tzinfo=UTC))
    for told in (lanes, lanes[::-1], lanes[1:] + lanes[:1]):
        assert worth_asking(told) == lanes
