"""Where the time of work in this process goes: processors, functions, statements, and what holds the event loop."""

import asyncio
import cProfile
import pstats
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from ke.storage.database import Database
from tests.faults.measures import say

SHOWN = 14
LONGEST = 10
NAME_CHARACTERS = 110
GROUPS = {
    "selectors and asyncio": ("asyncio", "selectors", "select.epoll", "_asyncio", "contextvars", "_contextvars"),
    "aiohttp and its parts": ("aiohttp", "yarl", "multidict", "aiosignal", "async_timeout", "propcache"),
    "SQLAlchemy": ("sqlalchemy", "greenlet"),
    "asyncpg": ("asyncpg",),
    "the pool's queues": ("concurrent", "multiprocessing", "queue", "_pickle", "pickle", "threading", "_thread"),
    "ke: activities": ("activities",),
    "ke: web": ("ke.web",),
    "ke: storage": ("ke.storage",),
    "ke: other": ("ke.", "temporalio"),
    "ada_url": ("ada_url",),
    "uuid and hashlib": ("uuid", "hashlib", "_hashlib", "_sha"),
    "numpy and orjson": ("numpy", "orjson", "base64"),
    "logging and structlog": ("logging", "structlog"),
}
Work = Callable[[], Awaitable[int]]
"""Does it once; returns how many things it did it to."""


@dataclass(frozen=True, slots=True)
class Used:
    """Processor seconds so far."""

    loop: float
    threads: float
    pool: float
    postgres: float
    vectors: float
    server: float

    @classmethod
    def now(cls) -> "Used":
        """Read off the processes; called on the event loop's thread."""
        found: Counter[str] = Counter()
        for child in psutil.Process().children(recursive=True):
            try:
                times, name, command = child.cpu_times(), child.name(), " ".join(child.cmdline())
            except psutil.Error:
                continue
            named = {"postgres": "postgres", "nginx": "server", "static_server": "server", "edge_server": "vectors"}
            role = next((role for mark, role in named.items() if mark in name or mark in command), "pool")
            found[role] += times.user + times.system
        loop = time.thread_time()
        others = (found[role] for role in ("pool", "postgres", "vectors", "server"))
        return cls(loop, time.process_time() - loop, *others)

    def since(self, before: "Used") -> dict[str, float]:
        """The differences, by name."""
        return {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}


async def tell_processors(work: Work, thing: str) -> None:
    """Prints what the processors did for each thing."""
    began, before = time.monotonic(), Used.now()
    number = await work()
    used, seconds = Used.now().since(before), time.monotonic() - began
    say(f"\n{number} in {seconds:.1f} s: {number / seconds:.0f} a second, {1000 * seconds / number:.2f} ms a {thing}")
    names = {
        "loop": "event loop",
        "threads": "other threads of its process",
        "pool": "pool",
        "postgres": "Postgres",
        "vectors": "vector process",
        "server": "web server",
    }
    for role, value in used.items():
        if value:
            say(f"  {names[role]:<30} {1000 * value / number:6.2f} ms of a processor a {thing}")
    say(f"  {'together':<30} {1000 * sum(used.values()) / number:6.2f} ms")


# What the event loop does


@dataclass
class Statements:
    """What each kind of statement took, from the outside: Postgres's time, the wire, and waits for the event loop."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)

    def begun(self, *call: Any) -> None:
        """Before a statement."""
        context = call[4]
        context.bench_began = time.perf_counter()

    def done(self, *call: Any) -> None:
        """After it."""
        statement, context = call[2], call[4]
        name = " ".join(statement.split())[:70]
        self.seconds[name] += time.perf_counter() - context.bench_began
        self.calls[name] += 1

    @contextmanager
    def watching(self, database: Database) -> Iterator[None]:
        """Takes the time of every statement until the block ends."""
        hooks = {"before_cursor_execute": self.begun, "after_cursor_execute": self.done}
        engine = database._engine.sync_engine
        for name, hook in hooks.items():
            sa.event.listen(engine, name, hook)
        try:
            yield
        finally:
            for name, hook in hooks.items():
                sa.event.remove(engine, name, hook)


async def tell_functions(work: Work, thing: str, database: Database) -> None:
    """Prints which code the event loop's time goes to, under a profiler, and what statements take."""
    statements = Statements()
    profiler = cProfile.Profile(time.thread_time)
    with statements.watching(database):
        profiler.enable()
        number = await work()
        profiler.disable()
    stats = stats_of(profiler)
    groups: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (path, _, name), (_, _, own, _, _) in stats.items():
        module = module_of(path, name)
        groups[_group(module)] += own
        functions[name if path.startswith("~") else f"{module}.{name}"] += own
    total = sum(groups.values())
    say(f"on the event loop, by what runs ({1000 * total / number:.2f} ms a {thing} under the profiler)")
    for name, own in groups.most_common():
        say(f"  {own / total:6.1%}  {name}")
    say("the most expensive functions, themselves")
    for name, own in functions.most_common(SHOWN):
        say(f"  {own / total:6.1%}  {name[:NAME_CHARACTERS]}")
    say("our own functions, with all below them")
    whole = {f"{module_of(path, name)}.{name}": value[3] for (path, _, name), value in stats.items()}
    ours = Counter({name: own for name, own in whole.items() if name.startswith(("activities", "ke."))})
    for name, own in ours.most_common(SHOWN):
        say(f"  {own / total:6.1%}  {name}")
    say("statements, from the outside")
    for name, seconds in sorted(statements.seconds.items(), key=lambda item: -item[1])[:SHOWN]:
        say(f"  {1000 * seconds / number:6.2f} ms a {thing}  {statements.calls[name]:>5} calls  {name}")


async def tell_longest(work: Work) -> None:
    """Prints the longest steps of the event loop in processor time: what holds it up on an idle machine too."""
    steps: list[tuple[float, str]] = []
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        steps.append((time.thread_time() - began, _name(handle)))

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    try:
        await work()
    finally:
        asyncio.events.Handle._run = run  # type: ignore[method-assign]
    worst: dict[str, float] = {}
    for seconds, name in steps:
        worst[name] = max(seconds, worst.get(name, 0.0))
    say(f"the longest of {len(steps)} steps of the event loop, the worst of each kind")
    for name, seconds in sorted(worst.items(), key=lambda item: -item[1])[:LONGEST]:
        say(f"  {1000 * seconds:6.1f} ms  {name}")


def _name(handle: asyncio.Handle) -> str:
    """What a step belongs to: its task's coroutine, or its callback."""
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return str(getattr(coroutine, "__qualname__", coroutine))
    return str(getattr(callback, "__qualname__", type(callback).__name__))


# Profiles


def stats_of(profiler: cProfile.Profile) -> dict[Any, Any]:
    """What a profiler found, by (file, line, function): calls, calls that are no recursion, own and whole seconds."""
    found: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return found


def module_of(path: str, name: str) -> str:
    """The module of a function by its file; of a built-in one by its name."""
    if path.startswith(("~", "<")):
        return name.strip("<>").removeprefix("built-in method ").removeprefix("method ").replace("'", "")
    parts = Path(path).with_suffix("").parts
    for mark in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if mark in parts:
            return ".".join(parts[parts.index(mark) + 1 :])
    return ".".join(parts[len(Path(__file__).parents[2].parts) :])


def _group(module: str) -> str:
    for name, prefixes in GROUPS.items():
        if module.startswith(prefixes) or any(f" {prefix}" in module for prefix in prefixes):
            return name
    return "other"
