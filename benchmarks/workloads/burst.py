"""Workloads 1 and 2: many events are published, and then all that they caused is waited for.

The cost of publishing and handling alone, in microseconds per delivery. At most 1,000 events and
10,000 deliveries are pending at once, so that no publisher of ours waits for room, and no peer
pays for the size of its pile.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._measure import Case, Goal, Settings, Workload
from benchmarks.peers import Serial, Tasks
from benchmarks.workloads._dispatch import dispatch_case

GOALS = {
    1: [
        Goal(against="pyee", at_least=0.33, aim=0.20),
        Goal(against="blinker", at_least=1.5, aim=1.0),
    ],
    10: [
        Goal(against="pyee", at_least=0.18, aim=0.12),
        Goal(against="blinker", at_least=1.5, aim=1.0),
    ],
    100: [
        Goal(against="pyee", at_least=0.15, aim=0.10),
        Goal(against="blinker", at_least=1.3, aim=1.0),
    ],
}
DEF_GOALS = {10: [Goal(against="pyee", at_least=1.8, aim=1.0)]}


def events_of(handlers: int, settings: Settings) -> int:
    """How many events are pending at once."""
    return settings.pick(min(1_000, 10_000 // handlers), 10)


def burst(settings: Settings) -> Iterator[Case]:
    """1, 10 and 100 ``async def`` handlers; two rows again with the collector on."""
    for collecting, numbers in ((False, (1, 10, 100)), (True, (1, 10))):
        for handlers in numbers:
            yield dispatch_case(
                f"{handlers} async handler{'s'[: handlers > 1]}"
                + (", garbage collector on" if collecting else ""),
                "publish_all",
                "async",
                handlers,
                settings,
                floors=(Serial, Tasks),
                events=events_of(handlers, settings),
                goals=() if collecting else GOALS[handlers],
                collecting=collecting,
            )


def burst_def(settings: Settings) -> Iterator[Case]:
    """1, 10 and 100 ``def`` handlers."""
    for handlers in (1, 10, 100):
        yield dispatch_case(
            f"{handlers} def handler{'s'[: handlers > 1]}",
            "publish_all",
            "def",
            handlers,
            settings,
            floors=(Serial,),
            events=events_of(handlers, settings),
            goals=DEF_GOALS.get(handlers, ()),
        )


ASYNC = Workload(name="burst", title="burst of events to async handlers, per delivery", cases=burst)
DEF = Workload(
    name="burst-def", title="burst of events to def handlers, per delivery", cases=burst_def
)
