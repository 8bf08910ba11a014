"""Where the time of a small job goes: `python -m tests.bench.timeline [JOBS]`.

Runs jobs of one page on a whole stack, one after the other, and prints the median of each step between the submit and
the end, by Temporal's history and the job's record.
"""

import asyncio
import sys
import time
from collections import defaultdict
from statistics import median

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from ke.client import KnowledgeExtractionClient
from tests.bench.lab import Lab, Options, ended, seconds_to_end, submit
from tests.faults.measures import machine, say


async def main(jobs: int) -> None:
    """Measures and prints."""
    say(f"machine: {machine()}")
    lab = Lab(Options(quick=True))
    try:
        web, stack = await lab.served(), await lab.stack()
        temporal = await Client.connect(stack.endpoints["temporal"])
        steps: dict[str, list[float]] = defaultdict(list)
        async with stack.client() as client:
            for _ in range(jobs):
                await _one(client, temporal, web.url, steps)
    finally:
        await lab.close()
    for name, values in steps.items():
        say(f"  {1000 * median(values):7.1f} ms  {name}")


async def _one(client: KnowledgeExtractionClient, temporal: Client, url: str, steps: dict[str, list[float]]) -> None:
    """Adds the seconds of each step of one job."""
    began = time.time()
    job = await submit(client, {"kind": "scrape", "urls": [url], "extract": None})
    accepted = time.time()
    steps["submit answered"].append(accepted - began)
    done = await ended(client, job["id"])
    names: dict[int, str] = {}
    before = None
    async for event in temporal.get_workflow_handle(job["workflow_id"]).fetch_history_events():
        at = event.event_time.ToMicroseconds() / 1e6
        name = _name(event, names)
        if before is not None and name:
            steps[f"  {name}"].append(at - before)
        before = at
    steps["accepted to completed_at"].append(seconds_to_end(done, accepted))


def _name(event: HistoryEvent, names: dict[int, str]) -> str:
    """What the time before an event went to; "" where two stand for one moment."""
    kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
    if event.HasField("activity_task_scheduled_event_attributes"):
        names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        return ""
    if event.HasField("activity_task_started_event_attributes"):
        return f"{names[event.activity_task_started_event_attributes.scheduled_event_id]}: until a worker has it"
    if event.HasField("activity_task_completed_event_attributes"):
        return f"{names[event.activity_task_completed_event_attributes.scheduled_event_id]}: runs"
    if kind in {"workflow_task_started", "workflow_task_completed"}:
        number = names.setdefault(-event.event_id, "")
        return f"workflow task {number}{'until a worker has it' if kind.endswith('started') else 'runs'}"
    return ""


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
