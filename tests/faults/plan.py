"""What a run breaks, and when: drawn from a seed, the same for the same seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.faults.injections import (
    CancelStorm,
    Exhaust,
    FailBatch,
    FailVectors,
    Fault,
    FillDisk,
    Freeze,
    FreezePastCleanup,
    Kill,
    LateWrite,
    Network,
    SubmitStorm,
)
from tests.faults.scenes import CLEANUP_PHASES, PHASES, RETRYING

ACTIONS: Final = {
    "queued": ("nothing", "cancel", "cancel and clean", "pause and resume"),
    "collecting": ("nothing", "nothing", "cancel", "cancel and clean", "pause and resume"),
    "extracting": ("nothing", "nothing", "cancel", "cancel and clean", "pause and resume"),
    "paused": ("resume", "cancel", "cancel and clean"),
    "cancelling": ("nothing", "cancel", "clean"),
    RETRYING: ("nothing", "nothing", "cancel", "clean", "delete"),
}
"""What may be asked of a job while it is broken, by its phase."""
CLEANUP_ACTIONS: Final = ("nothing", "clean", "delete")
DEPENDENCIES: Final = ("postgres", "temporal", "vectors")
HELD_S: Final = {
    "delay": (2, 6),
    "hold": (1.5, 8),
    "refuse": (1.5, 8),
    "reset": (0.5, 1.5),
    "drop replies of": (1.5, 3),
}
"""The ways in which a connection misbehaves, and for how long."""


@dataclass(frozen=True)
class Step:
    """One fault of the plan."""

    number: int
    fault: Fault
    kind: str
    phase: str
    action: str
    moment: int
    """How far into the phase it comes: in pages or sources."""
    then: str
    """What becomes of the job when it has ended: `clean`, `delete` or `keep`."""

    @property
    def where(self) -> str:
        """The kind and phase of the job that it hits."""
        return f"{self.kind}, cleanup: {self.phase}" if self.phase in CLEANUP_PHASES else f"{self.kind}, {self.phase}"


def draw(seed: int, number: int, *, disk: bool = True) -> list[Step]:
    """The plan of a run: every class comes up before one comes up again, and so does every phase of every kind.

    Args:
        seed: The same seed gives the same plan.
        number: How many faults.
        disk: Whether the disk can be filled here.
    """
    source = random.Random(seed)
    faults, places = _faults(source), _shuffled(source, _places())
    steps: list[Step] = []
    while len(steps) < number:
        fault = next(faults)
        kind, phase = next(places)
        moment, then = source.randint(1, 9), source.choice(("clean", "clean", "delete", "keep"))
        if isinstance(fault, FreezePastCleanup | LateWrite):
            kind, phase = source.choice(("crawl", "scrape")), "extracting"
        elif isinstance(fault, FailBatch):
            phase = "queued"
        action = source.choice(CLEANUP_ACTIONS if phase in CLEANUP_PHASES else ACTIONS[phase])
        if isinstance(fault, FailBatch):
            # It must get as far as a batch.
            action = "nothing"
        if disk or not isinstance(fault, FillDisk):
            steps.append(Step(len(steps) + 1, fault, kind, phase, action, moment, then))
    return steps


def _places() -> list[tuple[str, str]]:
    return [(kind, phase) for kind, phases in PHASES.items() for phase in (*phases, *CLEANUP_PHASES)]


def _shuffled(source: random.Random, deck: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while True:
        yield from source.sample(deck, len(deck))


def _faults(source: random.Random) -> Iterator[Fault]:
    rounds = 0
    while True:
        deck = _deck(source, rounds)
        source.shuffle(deck)
        yield from deck
        rounds += 1


def _deck(source: random.Random, rounds: int) -> list[Fault]:
    """Every class of fault once or more, with numbers of its own."""

    def seconds(least: float, most: float) -> float:
        return round(source.uniform(least, most), 1)

    kills = ("worker", "worker", "workflows", "workers", "gateway", "vectors", "postgres", "temporal", "stack")
    short = ("worker", "worker", "gateway", "vectors", "postgres", "temporal")
    deck: list[Fault] = [
        *(Kill(role) for role in kills),
        *(Freeze(role, seconds(1, 6)) for role in short),
        *(Freeze("worker", seconds(11, 16)) for _ in range(2)),
        # One of the two: each takes most of a minute.
        FreezePastCleanup() if rounds % 2 else LateWrite(),
        *(
            Network(
                dependency,
                source.choice(("worker", "worker", "gateway")),
                how,
                seconds(*HELD_S[how]),
                seconds(0.1, 0.8),
            )
            for dependency in DEPENDENCIES
            for how in HELD_S
        ),
        *(FailBatch(source.randint(1, 6)) for _ in range(2)),
        # A whole minute only now and then: it is a minute.
        FailVectors(60.0 if rounds % 3 == 1 else seconds(4, 15)),
        Exhaust(seconds(4, 10)),
        FillDisk(seconds(3, 8)),
        SubmitStorm(),
    ]
    return [*deck, CancelStorm()] if rounds % 3 == 0 else deck
