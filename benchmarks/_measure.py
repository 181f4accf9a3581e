"""Measuring side by side: contenders of one case take turns, and medians are compared.

A machine that others use is faster in one minute than in the next, so two figures say something
about each other only if they were taken at the same time. All contenders of a case are set up
first; then come the rounds, and in each round every contender has one turn, there and back again
(the first of a round is the last of the next), so that nobody always follows the same neighbour.
The figure of a contender is the median of its rounds, and its spread is the distance between the
quartiles, as a share of the median.

The garbage collector is off while a round runs, because it costs by the size of a heap that is
mostly not the contender's; it collects between rounds, with all that was there before the first
round frozen. Cases with ``collecting=True`` leave it on and freeze nothing, as users have it.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers import Role

Work = Callable[[int], Awaitable[object]]
Round = Callable[[], Awaitable[Sequence[float]]]
"""Makes one measurement; returns one number for each figure of the case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How long and how large; what the command line says."""

    rounds: int = 9
    seconds: float = 0.06
    """How long one round of one contender should take."""
    patience: float = 2.0
    """Seconds per contender and case, after which three rounds are enough."""
    events: int = 10_000_000
    """Of the endurance run."""
    subscriptions: int = 1_000_000
    """The largest set of patterns."""
    quick: bool = False
    """Everything once and tiny: shows that it runs, and its figures mean nothing."""

    def pick(self, full: int, tiny: int) -> int:
        """A size: as it should be, or tiny for a quick run."""
        return tiny if self.quick else full


QUICK = Settings(
    rounds=1, seconds=0.0, patience=0.0, events=20_000, subscriptions=1_000, quick=True
)


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured: its unit for people, and by how much to multiply the SI number."""

    unit: str
    scale: float = 1.0


US = Figure("µs", 1e6)
MS = Figure("ms", 1e3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """Where the bus must stand in one figure of a case.

    ``against`` a contender's name, the limits are ratios ours/theirs; without, they are in the
    unit of the figure.
    """

    at_least: float
    aim: float | None = None
    against: str | None = None
    figure: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to do the work of a case."""

    name: str
    role: Role
    prepare: Callable[[AsyncExitStack], Awaitable[Round]]
    """Set it up on the running loop; what must be undone goes on the stack."""
    lacks: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of work, done by several contenders in turn. The first of them is ours."""

    label: str
    contenders: Sequence[Contender]
    figures: Sequence[Figure]
    goals: Sequence[Goal] = ()
    collecting: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    """Who cannot do it, and why."""
    once: bool = False
    """One round is the measurement, because it counts rather than times, or is long in itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A family of cases, under the name that ``--only`` takes."""

    name: str
    title: str
    cases: Callable[[Settings], Iterator[Case]]


@dataclass(slots=True)
class Entry:
    """A contender's results in one case."""

    contender: Contender
    samples: list[Sequence[float]] = field(default_factory=list)
    error: str | None = None
    spent: float = 0.0

    def median(self, figure: int) -> float:
        """Of its rounds, in seconds or whatever the figure counts."""
        return statistics.median(sample[figure] for sample in self.samples)

    def spread(self, figure: int) -> float | None:
        """The distance between the quartiles over the median; None for fewer than three rounds."""
        values = [sample[figure] for sample in self.samples]
        middle = statistics.median(values)
        if len(values) < 3 or middle == 0 or math.isnan(middle):
            return None
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return (high - low) / middle


def timed(
    work: Work,
    units: int,
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> Round:
    """A round that times ``work(times)`` and returns the seconds per unit of work.

    ``units`` is how many units one time is. The first call, which is the warm-up, finds out how
    many times take as long as a round should.
    """
    times = 0

    async def took(times: int) -> float:
        before = clock()
        await work(times)
        return clock() - before

    async def run() -> tuple[float]:
        nonlocal times
        if times:
            return (await took(times) / (times * units),)
        tried = 1
        while (seconds := await took(tried)) < settings.seconds / 4:
            tried *= 4
        times = max(1, round(tried * settings.seconds / seconds))
        return (seconds / (tried * units),)

    return run


async def measure(case: Case, settings: Settings) -> list[Entry]:
    """Let the contenders of a case take turns. One that raises is out, with its error."""
    entries = [Entry(contender) for contender in case.contenders]
    async with AsyncExitStack() as stack:
        ready: list[tuple[Entry, Round]] = []
        with _collector(collecting=case.collecting):
            for entry in entries:
                try:
                    round_ = await entry.contender.prepare(stack)
                    if not case.once:
                        await round_()
                except Exception as error:  # told in the table
                    entry.error = f"{type(error).__name__}: {error}"
                else:
                    ready.append((entry, round_))
        with _collector(collecting=case.collecting):
            for _ in range(1 if case.once else settings.rounds):
                for entry, round_ in ready:
                    await _turn(entry, round_, settings)
                ready.reverse()
    return entries


async def _turn(entry: Entry, round_: Round, settings: Settings) -> None:
    tired = entry.spent > settings.patience and len(entry.samples) >= 3
    if tired or entry.error is not None:
        return
    gc.collect()
    before = time.perf_counter()
    try:
        entry.samples.append(await round_())
    except Exception as error:  # told in the table
        entry.error = f"{type(error).__name__}: {error}"
    entry.spent += time.perf_counter() - before


@contextmanager
def _collector(*, collecting: bool) -> Iterator[None]:
    gc.collect()
    if collecting:
        yield
        return
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
