"""Workload 3: each publish waits for the outcomes of its own event before the next one."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._measure import Case, Goal, Settings, Workload
from benchmarks.peers import Gather, Serial, Tasks
from benchmarks.workloads._dispatch import dispatch_case

GOALS = {
    1: [Goal(against=Tasks.name, at_least=1.6, aim=1.3)],
    10: [],
    100: [
        Goal(against=Gather.name, at_least=0.28, aim=0.20),
        Goal(against="pyee", at_least=0.18, aim=0.15),
    ],
}


def publish_and_wait(settings: Settings) -> Iterator[Case]:
    """1, 10 and 100 handlers that do nothing, then 100 that wait one turn of the loop."""
    for handlers in (1, 10, 100):
        yield dispatch_case(
            f"{handlers} async handler{'s'[: handlers > 1]}",
            "publish_each",
            "async",
            handlers,
            settings,
            floors=(Serial, Tasks, Gather),
            goals=GOALS[handlers],
        )
    yield dispatch_case(
        "100 handlers of sleep(0)",
        "publish_each",
        "turn",
        100,
        settings,
        floors=(Tasks, Gather),
        goals=[Goal(against=Gather.name, at_least=1.4, aim=1.2)],
    )


WORKLOAD = Workload(
    name="publish-and-wait",
    title="publish an event and await its completion, per delivery",
    cases=publish_and_wait,
)
