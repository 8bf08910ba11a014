"""The forgetting of what a re-crawl has replaced, as Temporal runs it."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from ke.contracts.jobs import Lane
from ke.contracts.naming import CLEANUP_WORKFLOW, TaskQueue, source_cleanup_id
from tests.workflow.stage import Stage, replay
from workflows import policies


async def test_each_replaced_document_has_a_cleanup_of_its_own(stage: Stage) -> None:
    """Document after document, run after run of the workflow; each cleanup names the job that owns the document."""
    stage.has_replaced(5)
    handle = await stage.forget(sources_a_run=2)
    assert await handle.result() == 5
    assert sorted(stage.twin.cleaned, key=str) == sorted(stage.twin.replaced, key=str)
    assert len(await stage.histories(handle.id)) == 3
    await replay(await stage.all_histories())


async def test_no_more_are_listed_than_are_deleted_at_once(stage: Stage) -> None:
    """What is replaced no more when the first are deleted is kept, as after a cleanup of the re-crawl."""
    stage.has_replaced(10)
    documents = list(stage.twin.replaced)
    stage.twin.holding["verify_cleanup"] = gate = stage.gate()
    handle = await stage.forget(sources_a_run=6)
    await stage.until(lambda: stage.twin.attempts["verify_cleanup"] == policies.CLEANUPS_AT_ONCE)
    stage.twin.replaced = []
    gate.set()
    assert await handle.result() == policies.CLEANUPS_AT_ONCE
    assert sorted(stage.twin.cleaned, key=str) == sorted(documents[: policies.CLEANUPS_AT_ONCE], key=str)


@pytest.mark.parametrize("step", ["list_replaced_sources", "verify_cleanup"])
async def test_cancel_takes_up_no_further_document(stage: Stage, step: str) -> None:
    """Neither what is being listed nor what would come next; the cleanups that are at work end well."""
    stage.has_replaced(6)
    stage.twin.holding[step] = gate = stage.gate()
    handle = await stage.forget(sources_a_run=3)
    begun = 0 if step == "list_replaced_sources" else 3
    await stage.until(lambda: stage.twin.attempts[step] == max(begun, 1))
    await handle.cancel(reason="not now")
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    for source in stage.twin.replaced[:begun]:
        child = stage.client.get_workflow_handle(source_cleanup_id(str(source.source_id)))
        assert await stage.ended(child) is WorkflowExecutionStatus.COMPLETED
    assert stage.twin.attempts["begin_cleanup"] == begun
    await replay(await stage.all_histories())


async def test_recrawl_that_ended_well_begins_it(stage: Stage) -> None:
    """Only where it was asked for, and only when the job's row is closed: before that the re-crawl is in the way."""
    stage.has_replaced(2)
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.holding["close_job"] = gate = stage.gate()
    asked = await stage.start(forget_replaced=True)
    await stage.until(lambda: stage.twin.attempts["close_job"])
    assert await stage.histories(stage.forgetting_of(asked).id) == []
    gate.set()
    await stage.outcome(asked)
    assert await stage.forgetting_of(asked).result() == 2
    assert stage.twin.cleaned
    other = await stage.start()
    await stage.outcome(other)
    assert await stage.histories(stage.forgetting_of(other).id) == []


async def test_cancelled_recrawl_forgets_nothing(stage: Stage) -> None:
    """What it has not asked for may be as it was."""
    stage.has_replaced(2)
    handle = await stage.running(forget_replaced=True)
    await handle.cancel(reason="wrong site")
    await stage.ended(handle)
    assert await stage.histories(stage.forgetting_of(handle).id) == []


async def test_retry_of_a_recrawl_begins_it_again(stage: Stage) -> None:
    """A page that failed at first may turn out to have changed."""
    stage.has_replaced(1)
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.start_retry(Lane.COLLECT, forget_replaced=True)
    await stage.ended(handle)
    assert await stage.forgetting_of(handle).result() == 1
    assert stage.twin.cleaned == stage.twin.replaced


async def test_document_that_cannot_be_forgotten_holds_up_no_other(stage: Stage) -> None:
    """The others are tried, and the failure names the first ones with the reason."""
    stage.has_replaced(11)
    stage.twin.failing["begin_cleanup"] = ApplicationError("Others work on it.", type="conflict", non_retryable=True)
    handle = await stage.forget()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert stage.twin.attempts["begin_cleanup"] == 11
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "cleanup-incomplete"
    assert caught.value.cause.message.startswith("11 of 11 documents are left: source ")
    assert caught.value.cause.message.count("Others work on it.") == 10


async def test_document_that_somebody_forgets_already_is_waited_for(stage: Stage) -> None:
    """The cleanup that is at work has the document's one id."""
    stage.has_replaced(1)
    stage.twin.holding["verify_cleanup"] = gate = stage.gate()
    (source,) = stage.twin.replaced
    assert source.source_id is not None
    other = await stage.client.start_workflow(
        CLEANUP_WORKFLOW, source, id=source_cleanup_id(source.source_id), task_queue=TaskQueue.CLEANUP.value
    )
    handle = await stage.forget()
    await stage.until_timer(handle)
    gate.set()
    await stage.ended(other)
    assert await handle.result() == 1
