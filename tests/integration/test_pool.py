"""The process pool: results, deaths of its processes and of its owner, cancellation, ending."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import ANY

import psutil
import pytest

from ke.contracts.errors import InvalidInput, WorkLost
from ke.contracts.jobs import ExtractSpec
from ke.extraction.embed import embed, find_embedder
from ke.extraction.pipeline import SourceText, extract_short, extract_source
from ke.runtime.pool import CpuPool

END_S = 60.0


@pytest.fixture
async def pool() -> AsyncIterator[CpuPool]:
    made = CpuPool(2)
    yield made
    await made.close()


def native_settings() -> tuple[str | None, int, int, bool]:
    return (
        os.environ.get("OMP_NUM_THREADS"),
        os.getpid(),
        os.nice(0),
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    )


async def until(fact: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(END_S):
        while not fact():  # noqa: ASYNC110  a fact about other processes
            await asyncio.sleep(0.01)


async def until_gone(pids: list[int]) -> None:
    """Waits until none of these processes is left."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, END_S)
    assert not alive


async def pool_pids(pool: CpuPool) -> set[int]:
    """The processes of a pool, all started."""
    pids: set[int] = set()
    async with asyncio.timeout(END_S):
        while len(pids) < 2:
            calls = [pool.run(slow_pid, 0.1) for _ in range(4)]
            pids = set(await asyncio.gather(*calls))
    return pids


def slow_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def wait_for_file(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60.0)


async def test_results_and_errors_come_back(pool: CpuPool) -> None:
    """A function's result is the call's result, and its exception the call's exception, with its type."""
    assert await pool.run(divmod, 17, 5) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    with pytest.raises(InvalidInput, match="empty"):
        await pool.run(embed, "wordllama", [""])


async def test_functions_of_the_script_are_refused(pool: CpuPool) -> None:
    """A function that a pool process could not find is refused before it breaks one."""
    function = type(slow_pid)(slow_pid.__code__, {"__name__": "__main__"}, "local")
    with pytest.raises(ValueError, match="main module"):
        await pool.run(function, 0.0)


async def test_owners_environment_is_never_written(pool: CpuPool) -> None:
    """No call and no start of a process changes it: a native thread that reads it then would crash the owner."""

    def refuse(*_: object) -> None:
        raise AssertionError("the environment was written")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "putenv", refuse)
        patch.setattr(os, "unsetenv", refuse)
        assert (await pool.run(native_settings))[0] == "1"


async def test_processes_are_set_up(pool: CpuPool) -> None:
    """A pool process has one native thread, a lower priority, and leaves Ctrl-C to its owner, who keeps his own."""
    before = os.environ.get("OMP_NUM_THREADS")
    threads, pid, nice, ignores = await pool.run(native_settings)
    assert (threads, ignores) == ("1", True)
    assert nice >= os.nice(0) + 5 or nice == 19
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(pid, signal.SIGINT)
    assert await pool.run(divmod, 2, 2) == (1, 0)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here: niceness is for all")
async def test_processes_are_nicer_than_those_of_other_sessions(pool: CpuPool) -> None:
    """Niceness counts within a session alone: a pool process has one of its own, which is nice as a whole."""
    _, pid, nice, _ = await pool.run(native_settings)
    assert os.getsid(pid) == pid
    autogroup = Path(f"/proc/{pid}/autogroup").read_text()  # noqa: ASYNC240  the kernel's, not a disk's
    assert autogroup.split() == [ANY, "nice", str(nice - os.nice(0))]


async def test_killed_process_loses_its_calls_only(pool: CpuPool) -> None:
    """`kill -9` of a pool process: the calls under way are lost, each with a retryable error; the next ones work."""
    pids = await pool_pids(pool)
    calls = [asyncio.create_task(pool.run(slow_pid, 60.0)) for _ in range(6)]
    await asyncio.sleep(0.3)
    os.kill(min(pids), signal.SIGKILL)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [WorkLost] * 6
    assert all(result.retryable for result in results)
    again = await asyncio.gather(*(pool.run(slow_pid, 0.01) for _ in range(6)))
    assert not pids & set(again)
    await until_gone(list(pids))


async def test_pool_survives_many_deaths(pool: CpuPool) -> None:
    """Processes that kill themselves over and over cost their own calls, and never the pool."""
    for _ in range(3):
        with pytest.raises(WorkLost):
            await pool.run(kill_self)
        assert await pool.run(divmod, 4, 2) == (2, 0)


async def test_cancelled_callers_leave_the_pool_whole(pool: CpuPool, tmp_path: Path) -> None:
    """Callers that go away, waiting or running, take nothing with them."""
    pids = await pool_pids(pool)
    go_on = tmp_path / "go on"
    calls = [asyncio.create_task(pool.run(wait_for_file, str(go_on))) for _ in range(10)]
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*calls, return_exceptions=True))
    go_on.touch()
    assert await pool.run(slow_pid, 0.0) in pids


async def test_close_ends_every_process() -> None:
    """After `close` no process is left, even with a call that would go on for an hour; later calls are refused."""
    pool = CpuPool(2)
    pids = await pool_pids(pool)
    call = asyncio.create_task(pool.run(slow_pid, 3600.0))
    waiting = asyncio.create_task(pool.run(slow_pid, 3600.0))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(END_S):
        await pool.close(timeout_s=0.5)
        results = await asyncio.gather(call, waiting, return_exceptions=True)
    assert all(isinstance(result, WorkLost | asyncio.CancelledError) for result in results), results
    await until_gone(list(pids))
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(os.getpid)
    await pool.close()


async def test_unused_pool_closes() -> None:
    """A pool that was never used has nothing to end."""
    await CpuPool(1).close()


OWNER = """
import asyncio, pathlib, sys, time
from ke.runtime.pool import CpuPool

if __name__ != "__main__":
    pathlib.Path(sys.argv[1], "imported again").touch()

async def main():
    pool = CpuPool(2)
    await asyncio.gather(*(pool.run(time.sleep, 0.2) for _ in range(2)))
    pathlib.Path(sys.argv[1], "at work").touch()
    await asyncio.gather(*(pool.run(time.sleep, 3600) for _ in range(2)))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("after_s", [None, 0.0, 0.1, 0.3, 0.6])
async def test_killed_owner_leaves_no_process(tmp_path: Path, after_s: float | None) -> None:
    """`kill -9` of the owner ends its pool processes, at work (None) or starting; none of them ran its script again."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    notes = tmp_path / "notes"
    notes.mkdir()
    owner = await asyncio.create_subprocess_exec(sys.executable, str(script), str(notes), stderr=subprocess.DEVNULL)
    try:
        # Two pool processes, and multiprocessing's resource tracker.
        await until(lambda: len(psutil.Process(owner.pid).children(recursive=True)) == 3)
        children = [child.pid for child in psutil.Process(owner.pid).children(recursive=True)]
        if after_s is None:
            await until((notes / "at work").exists)
        else:
            await asyncio.sleep(after_s)
    finally:
        owner.kill()
        await owner.wait()
    await until_gone(children)
    assert not (notes / "imported again").exists()


async def test_extraction_keeps_pairs(pool: CpuPool) -> None:
    """Many sources at once: each has its own chunks, in order, each chunk its own vector."""
    texts = [f"# Title {n}\n\nAda Lovelace wrote note {n} in London.\n\n" + f"Filler {n}. " * 90 * n for n in range(12)]
    sources = [SourceText(uuid.uuid4(), text) for text in texts]
    spec = ExtractSpec(chunk_tokens=64)
    done = await asyncio.gather(*(extract_source(pool, source, spec) for source in sources))
    for source, extracted in zip(sources, done, strict=True):
        assert extracted.source_id == source.source_id
        assert extracted.collection == "wordllama-256"
        assert [made.chunk.number for made in extracted.chunks] == list(range(len(extracted.chunks)))
        vectors = embed("wordllama", [made.chunk.text for made in extracted.chunks])
        for made, vector in zip(extracted.chunks, vectors, strict=True):
            assert source.text[made.chunk.start : made.chunk.end] == made.chunk.text
            assert made.vector == vector


async def test_extraction_of_a_long_source_is_in_pieces(pool: CpuPool) -> None:
    """A source of several pieces has one run of numbers and true offsets."""
    text = "".join(f"## Part {n}\n\n" + "Some words about it. " * 40 + "\n\n" for n in range(300))
    extracted = await extract_source(pool, SourceText(uuid.uuid4(), text), ExtractSpec())
    assert [made.chunk.number for made in extracted.chunks] == list(range(len(extracted.chunks)))
    assert all(text[made.chunk.start : made.chunk.end] == made.chunk.text for made in extracted.chunks)
    assert {f"Part {n}" for n in range(300)} == {made.chunk.heading for made in extracted.chunks}


async def test_short_sources_together_are_as_each_alone(pool: CpuPool) -> None:
    """One task makes of each source what it makes of it alone, of more than a batch too; a bad text is told."""
    texts = ["# Ada\n\nAda met Charles. " * 9, "", "London is a city. " * 3000, "# Last\n\nOne more."]
    sources = [SourceText(uuid.uuid4(), text) for text in texts]
    spec = ExtractSpec(chunk_tokens=16)
    together = await extract_short(pool, sources, spec)
    assert together == [await extract_source(pool, source, spec) for source in sources]
    assert len(together[2].chunks) > find_embedder("wordllama").batch
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        await extract_short(pool, [*sources, SourceText(uuid.uuid4(), "a \udcff b")], spec)


async def test_extraction_of_nothing_is_empty(pool: CpuPool) -> None:
    """An empty source has no chunks and is no error."""
    extracted = await extract_source(pool, SourceText(uuid.uuid4(), " \n "), ExtractSpec())
    assert extracted.chunks == ()


async def test_extraction_names_what_is_unknown(pool: CpuPool) -> None:
    """An unknown embedder, finder or impossible length is refused as such, before work is done."""
    source = SourceText(uuid.uuid4(), "text")
    for spec, message in (
        (ExtractSpec(embedder="x"), "no embedder 'x'"),
        (ExtractSpec(entities="x"), "no entity finder 'x'"),
        (ExtractSpec(chunk_tokens=1), "max_tokens"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await extract_source(pool, source, spec)


async def test_extraction_reports_a_dead_process(pool: CpuPool) -> None:
    """A pool process killed amid an extraction makes it `WorkLost`; the same source can be extracted then."""
    source = SourceText(uuid.uuid4(), "London is a city in England. " * 4000)
    pids = await pool_pids(pool)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # or the extraction might be over before the kill
    call = asyncio.create_task(extract_source(pool, source, ExtractSpec()))
    await asyncio.sleep(0.2)
    assert not call.done()
    os.kill(min(pids), signal.SIGKILL)
    for pid in set(pids) - {min(pids)}:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(WorkLost):
        await call
    short = SourceText(source.source_id, source.text[:2000])
    assert (await extract_source(pool, short, ExtractSpec())).chunks
