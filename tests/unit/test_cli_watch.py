"""How a job that is followed reads in a log."""

import io
from typing import Any

from rich.console import Console

from ke.cli.watch import LineView

SILENT = "the worker of collect_pages is silent for {} s; after 10 s another one takes it up"


class Log:
    """A view into a file, half a second of whose clock goes by with each look at the job."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now_s = 100.0
        self.view = LineView(Console(file=self.stream, width=1000, highlight=False), clock=lambda: self.now_s)

    def look(self, **job: Any) -> None:
        self.view.show({"status": "running", **job})
        self.now_s += 0.5

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_what_only_grows_is_told_at_growing_intervals() -> None:
    """A minute of silence is a handful of lines, and none comes twice."""
    log = Log()
    for tick in range(120):
        log.look(waiting_for=SILENT.format(5 + tick // 2))
    seconds = [int(line.split(" s;")[0].rsplit(" ", 1)[1]) for line in log.lines]
    assert seconds == [5, 6, 8, 12, 20, 36]


def test_what_changes_otherwise_is_told_at_once() -> None:
    """Another state, a number that was not there before, a reason that comes and goes."""
    log = Log()
    log.look(progress={"pages_fetched": 3})
    log.look(progress={"pages_fetched": 4})
    log.look(progress={"pages_fetched": 5, "pages_failed": 1})
    log.look(progress={"pages_fetched": 5, "pages_failed": 1}, waiting_for="a pause")
    log.look(progress={"pages_fetched": 5, "pages_failed": 1}, waiting_for="host 10.0.0.1:80 for 3 s")
    log.look(progress={"pages_fetched": 5, "pages_failed": 1}, waiting_for="host 10.0.0.1:80 for 4 s")
    log.look(progress={"pages_fetched": 5, "pages_failed": 1}, waiting_for="host 10.0.0.2:80 for 1 s")
    log.look(progress={"pages_fetched": 5, "pages_failed": 1})
    log.look(status="completed", result={"pages_fetched": 6, "pages_failed": 1})
    assert log.lines == [
        "running: 3 pages",
        "running: 5 pages, 1 failed",
        "running: 5 pages, 1 failed, waiting: a pause",
        "running: 5 pages, 1 failed, waiting: host 10.0.0.1:80 for 3 s",
        "running: 5 pages, 1 failed, waiting: host 10.0.0.2:80 for 1 s",
        "running: 5 pages, 1 failed",
        "completed: 6 pages, 1 failed",
    ]


def test_job_that_stands_still_is_told_once() -> None:
    """However long that takes."""
    log = Log()
    for _ in range(1000):
        log.look(progress={"pages_fetched": 3})
    assert log.lines == ["running: 3 pages"]
